-- PostgreSQL keeps its statistics itself; this is the first time.
ANALYZE device_summaries;
