"""The ledger, the only record of progress: tables in PostgreSQL, named SQL, and functions over them."""
