"""The report of a finished study: verdicts, tables and charts, on the terminal and as files."""

from zeromean.study.report.content import Section as Section
from zeromean.study.report.content import check_min_effect as check_min_effect
from zeromean.study.report.content import headline as headline
from zeromean.study.report.content import sections as sections
from zeromean.study.report.files import write as write
from zeromean.study.report.files import write_csv as write_csv
from zeromean.study.report.files import write_markdown as write_markdown
