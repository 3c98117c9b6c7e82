"""Measuring a model on held-out scenes, beside trivial baselines and beside what real clips reach."""

from ...evaluation.baselines import BASELINES
from .evaluate import Picture, Report, evaluate
from .figures import Row
from .judge import Judge, JudgeConfig, MissingJudgeError, Verdict, load_judge, train_judge
from .motion import name_motion
from .report import html_page, rich_table, write_report
from .trials import TRIALS, Trial

__all__ = [
    "BASELINES",
    "TRIALS",
    "Judge",
    "JudgeConfig",
    "MissingJudgeError",
    "Picture",
    "Report",
    "Row",
    "Trial",
    "Verdict",
    "evaluate",
    "html_page",
    "load_judge",
    "name_motion",
    "rich_table",
    "train_judge",
    "write_report",
]
