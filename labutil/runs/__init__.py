"""What a notebook leaves behind, and executing one as a program."""

from labutil import on_demand

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "open_run": "record",  # a lesson's own run: where its metrics, figures, predictions and model go
        "Run": "record",
        "RunError": "record",
        "PROMISED": "record",  # what a run with a label promises
        "new_record": "record",  # run.json of a run that begins now
        "read_record": "record",  # run.json of a directory
        "read_records": "record",  # every run below a directory
        "load_runs": "record",  # the same as a table
        "run_id": "record",  # the name of a run's directory
        "format_metrics": "record",
        "write_json": "record",
        "show_path": "record",
        "run_notebook": "execute",  # a notebook with parameters -> its run's directory, found or made
        "run_and_tell": "execute",  # the same, and says what it came to
    },
)
