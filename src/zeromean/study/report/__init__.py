"""What a finished study says: its tables and sentences, as files and on the terminal."""

from zeromean.study.report.files import Section as Section
from zeromean.study.report.files import check_gain as check_gain
from zeromean.study.report.files import headline as headline
from zeromean.study.report.files import sections as sections
from zeromean.study.report.files import write as write
from zeromean.study.report.files import write_markdown as write_markdown
