"""Settings of RocksDB, which bound memory and open files, and soon free the space of deleted rows."""

from __future__ import annotations

from typing import Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options

WRITE_BUFFER_BYTES: Final = 64 << 20
WRITE_BUFFERS_MAX: Final = 3
LOG_WRITE_BUFFER_BYTES: Final = 16 << 20
"""Size of the log's buffer. Rows of the log are deleted soon, and rows deleted while still in this buffer are never
written to a file."""
DELETES_RATIO: Final = 0.7
"""Share of deletes among the entries of a file of rows from which the file is merged at once."""
BLOCK_CACHE_BYTES: Final = 32 << 20
LOG_BLOCK_CACHE_BYTES: Final = 4 << 20
OPEN_FILES_MAX: Final = 512
WAL_BYTES_MAX: Final = 512 << 20
MANIFEST_BYTES_MAX: Final = 16 << 20
INFO_LOGS_MAX: Final = 3
INFO_LOG_BYTES_MAX: Final = 4 << 20


def make_options(write_buffer_bytes: int = WRITE_BUFFER_BYTES, files_max: int = OPEN_FILES_MAX) -> Options:
    """Returns the database settings, which bound memory and open files, and soon free the space of deleted rows."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)  # noqa: FBT003
    # Point in time: a torn or zero-filled end of the log is normal after a power cut. The file DURABLE tells it from
    # damage.
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_max_total_wal_size(WAL_BYTES_MAX)
    # Two full buffers may wait for their flush while the third fills.
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_max_write_buffer_number(WRITE_BUFFERS_MAX)
    options.set_max_background_jobs(2)
    options.set_compression_type(DBCompressionType.lz4())
    # Most rows are deleted after their retention: level sizes follow the data, and files full of deletes are merged
    # first.
    # Under load half of the writes are deletes, mostly of neighbours: a file must have a higher share of deletes than
    # that,
    # and consecutive deletes do not count. Otherwise each buffer would be merged as soon as it is flushed.
    options.set_level_compaction_dynamic_level_bytes(True)
    options.add_compact_on_deletion_collector_factory(0, 0, DELETES_RATIO)
    # Merging eight buffers at a time rewrites each row half as often as merging four. With four, ten million creates in
    # a thousand queues end at 0.7 to 0.9 times the initial speed; with eight, at 1.0 (bench/depth.py).
    options.set_level_zero_file_num_compaction_trigger(8)
    options.set_max_bytes_for_level_base(8 * write_buffer_bytes)
    options.set_target_file_size_base(write_buffer_bytes)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    table.set_block_size(8 << 10)
    # Lookups of missing rows are common: most tasks have no state row.
    table.set_bloom_filter(10, False)  # noqa: FBT003
    options.set_block_based_table_factory(table)
    options.set_max_open_files(files_max)
    # Memtables and files are freed in the background, because reads run on the event loop.
    options.set_avoid_unnecessary_blocking_io(True)
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX)
    options.set_keep_log_file_num(INFO_LOGS_MAX)
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def make_log_options() -> Options:
    """Returns the settings of the log: rows are written once, read when the store opens, and deleted after minutes."""
    options = Options(raw_mode=True)
    options.set_write_buffer_size(LOG_WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(WRITE_BUFFERS_MAX)
    options.set_compression_type(DBCompressionType.none())
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_max_bytes_for_level_base(4 * LOG_WRITE_BUFFER_BYTES)
    options.set_target_file_size_base(LOG_WRITE_BUFFER_BYTES)
    options.add_compact_on_deletion_collector_factory(1024, 512, 0.5)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(LOG_BLOCK_CACHE_BYTES))
    table.set_block_size(32 << 10)
    options.set_block_based_table_factory(table)
    return options
