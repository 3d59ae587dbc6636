"""The truth about progress: tables in PostgreSQL, named SQL, and the few functions over them."""
