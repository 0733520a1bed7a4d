"""`prefect run takedown`: samples that must go leave every version, index and future ingest."""
