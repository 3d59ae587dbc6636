"""The pipeline: Prefect flows over Prefect-free stages, exports and ledger."""
