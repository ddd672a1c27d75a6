"""What a notebook leaves behind, and executing one as a program."""

from labutil import on_demand

_RECORD = (
    "open_run", "Run", "RunError", "new_record", "read_record", "read_records", "load_runs", "run_id",
    "format_metrics", "write_json", "show_path", "FILL_IN",
)  # fmt: skip

__getattr__, __dir__ = on_demand(__name__, dict.fromkeys(_RECORD, "record") | {"run_notebook": "execute"})
