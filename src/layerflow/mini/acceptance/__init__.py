"""Evaluation of a model on held-out scenes, compared with trivial baselines and with true clips."""

from ...evaluation.baselines import BASELINES
from .cases import CASES, Case
from .evaluate import Picture, Report, evaluate
from .figures import Row
from .judge import Judge, JudgeConfig, MissingJudgeError, Verdict, load_judge, train_judge
from .motion import name_motion
from .report import html_page, rich_table, write_report

__all__ = [
    "BASELINES",
    "CASES",
    "Case",
    "Judge",
    "JudgeConfig",
    "MissingJudgeError",
    "Picture",
    "Report",
    "Row",
    "Verdict",
    "evaluate",
    "html_page",
    "load_judge",
    "name_motion",
    "rich_table",
    "train_judge",
    "write_report",
]
