"""Commands of a README, so that tests run what users are told to run."""

import re

from server_process import ROOT


def commands(readme, heading):
    """The indented lines below `heading`, as a script."""
    text = (ROOT / readme).read_text()
    section, = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    assert lines, f"{readme} has no commands below {heading}"
    return "\n".join(lines) + "\n"
