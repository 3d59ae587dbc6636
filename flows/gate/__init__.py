"""What a stage run must pass: the fence, then a slot. README.md in this folder has the contract."""
