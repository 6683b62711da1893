"""What lies here is run as a script, not collected: only its test is."""

from pathlib import Path

collect_ignore = [path.name for path in Path(__file__).parent.glob("*.py") if path.name != "test_fuzz.py"]
