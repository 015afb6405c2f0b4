"""The Server Machine Dataset as parquet with the contract's columns: all of it, a part to train on, and a last day.

    python examples/smd/prepare.py SOURCE FOLDER

SOURCE: the folder ServerMachineDataset of NetManAIOps/OmniAnomaly, or a parquet file that has the contract's columns.
"""  # noqa: INP001 -- a script, not a package

import sys
from pathlib import Path

import pandas as pd

# Three of the 38 columns, by place. Each runs from 0 to 1, the machine's own extremes: not percent, but of its course.
COLUMNS = {0: "cpu_percent", 1: "load_average", 12: "disk_percent"}
# Eight of the 28, so that a trial is short; the others work as well.
MACHINES = ("1-6", "1-7", "2-1", "2-2", "2-7", "2-8", "3-3", "3-4")
START = pd.Timestamp("2020-01-06", tz="UTC")  # the files tell no time; a row is a minute
TRAINED_ON = 0.75
REPLAYED = pd.Timedelta(hours=27)  # a day for the season's lag, an encoder, and something to forecast


def from_text(folder: Path) -> pd.DataFrame:
    """Rows of all machines, from the source's text files."""
    frames = []
    for machine in MACHINES:
        halves = [folder / half / f"machine-{machine}.txt" for half in ("train", "test")]
        rows = pd.concat([pd.read_csv(file, header=None, usecols=list(COLUMNS)) for file in halves], ignore_index=True)
        frame = rows.rename(columns=COLUMNS) * 100
        frame.insert(0, "server_id", f"smd-machine-{machine}")
        frame.insert(1, "timestamp", START + pd.to_timedelta(frame.index, unit="min"))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def main(source: Path, folder: Path) -> None:
    """Write the files, and say where training ends."""
    frame = from_text(source) if source.is_dir() else pd.read_parquet(source)
    frame = frame[["server_id", "timestamp", *COLUMNS.values()]]
    first, last = frame.timestamp.min(), frame.timestamp.max()
    cut = (first + TRAINED_ON * (last - first)).floor("D")
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"all": frame, "before": frame[frame.timestamp < cut], "last": frame[frame.timestamp > last - REPLAYED]}
    for name, part in parts.items():
        part.to_parquet(folder / f"{name}.parquet", index=False)
        sys.stdout.write(f"{len(part):>7} rows in {folder / name}.parquet\n")
    sys.stdout.write(f"trained on before {cut.isoformat()}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
