"""The run that times the course: it writes what it promises, and names the page and the cell that fail."""
import json
from pathlib import Path

import pytest
from papermill.exceptions import PapermillExecutionError

from vaebm.cli import execute

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def course(root, folder):
    execute(root / 'nbs' / 'experiments' / 'course.ipynb', {'tier': 'smoke', 'run_dir': str(folder)}, folder / 'notebook.ipynb')
    return json.loads((folder / 'course.json').read_text())


def test_course_in_miniature(tmp_path):
    result = course(ROOT, tmp_path)
    assert list(result['seconds']) == ['index', '00_data'] and all(s > 1 for s in result['seconds'].values())
    assert result['total'] == pytest.approx(sum(result['seconds'].values())) and result['environment']['threads'] >= 1
    assert result['command'] == 'vaebm-run nbs/experiments/course.ipynb tier=smoke' and (tmp_path / 'course.png').exists()


def test_a_page_that_fails_is_named_with_its_cell(copy, tmp_path):
    page = copy / 'nbs' / 'index.ipynb'
    content = json.loads(page.read_text())
    content['cells'] = [{'cell_type': 'code', 'id': f'cell{i}', 'metadata': {'tags': tags}, 'execution_count': None, 'outputs': [], 'source': source} for i, (tags, source) in enumerate([(['skip-execution'], '1 / 0'), ([], 'x = 1'), ([], 'x / 0')])]
    page.write_text(json.dumps(content))
    with pytest.raises(PapermillExecutionError, match='index.ipynb, cell cell2: ZeroDivisionError'): course(copy, tmp_path)
    assert not (tmp_path / 'course.json').exists()
