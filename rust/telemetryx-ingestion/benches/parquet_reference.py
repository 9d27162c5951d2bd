"""Writes the rows of Parquet files once more, as DuckDB does it with one thread: the yardstick of the sink `parquet`.
Prints how many rows there were, and the seconds that writing took; reading them does not count."""

import shutil
import sys
import time

import duckdb

files, folder = sys.argv[1] + "/type=*/date=*/hour=*/*.parquet", sys.argv[2]
connection = duckdb.connect(config={"threads": 1})
connection.execute("CREATE TABLE events AS SELECT * FROM read_parquet(?, hive_partitioning=true, "
                   "hive_types={'type': VARCHAR, 'date': VARCHAR, 'hour': VARCHAR})", [files])
rows = connection.execute("SELECT count(*) FROM events").fetchone()[0]
begun = time.monotonic()
connection.execute(f"COPY events TO '{folder}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, "
                   "PARTITION_BY (type, date, hour), WRITE_PARTITION_COLUMNS true)")
print(rows, time.monotonic() - begun)
shutil.rmtree(folder)
