"""The website builds without a warning, its links resolve, its pictures are described, and a browser shows every page without a request to another host."""
import json
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
PHONE = {'width': 400, 'height': 800}
pytestmark = pytest.mark.slow

LOOK = """async () => {
    if (window.MathJax) await MathJax.startup.promise;
    const article = document.querySelector('article') || document.body, text = article.cloneNode(true);
    text.querySelectorAll('pre, code, mjx-container').forEach(e => e.remove());
    return {
        width: Math.max(...[...document.querySelectorAll('html, .content')].map(e => e.scrollWidth)),
        formulas: article.querySelectorAll('mjx-container').length,
        wrong: [...article.querySelectorAll('[data-mml-node="merror"], mjx-container [fill="red"]')].map(e => e.textContent),
        raw: (text.textContent.match(/\\$\\$|\\\\[(\\[]/g) || []).length,
        broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
    };
}"""


class Page(HTMLParser):
    "What a page links to, what it loads, which anchors it has, its pictures' alternatives, and whether it has formulas."
    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads, self.alts, self.formulas = set(), [], [], {}, 0
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if 'id' in a: self.ids.add(a['id'])
        if tag == 'a' and 'href' in a: self.links.append(a['href'])
        if tag == 'link' and a.get('rel') in ('next', 'prev'): self.links.append(a['href'])
        if tag == 'link' and a.get('rel') in ('stylesheet', 'icon'): self.loads.append(a['href'])
        if tag in ('img', 'script') and 'src' in a: self.loads.append(a['src'])
        if tag == 'img': self.alts[a['src']] = a.get('alt') or ''
        self.formulas += 'math' in (a.get('class') or '').split()


def outside(address): return re.match(r'[a-z]+:|//', address) is not None


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The folder of the site, built as `make docs` builds it: warnings are errors."
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run([sys.executable, str(ROOT / 'docs' / 'build.py'), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / 'html'


@pytest.fixture(scope='module')
def pages(site): return {str(p.relative_to(site)): Page(p) for p in sorted(site.rglob('*.html'))}


def test_every_notebook_and_module_has_a_page_in_reading_order(site, pages):
    names = [str(p.relative_to(ROOT / 'nbs').with_suffix('.html')) for p in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in str(p)]
    names += [f'api/vaebm.{p.stem}.html' for p in (ROOT / 'vaebm').glob('*.py') if not p.stem.startswith('_')]
    assert len(names) > 50 and set(names) <= set(pages)
    order, name = [], 'index.html'
    while name:
        order.append(name)
        following = re.search(r'<link rel="next" title="[^"]*" href="([^"]+)"', (site / name).read_text(encoding='utf-8'))
        name = following and urljoin(name, following[1])
    chapters = sorted(n for n in names if n[0].isdigit())
    assert order[1:len(chapters) + 1] == chapters and set(order) >= set(names)
    assert '02 Langevin dynamics' in (site / 'index.html').read_text(encoding='utf-8')


def test_links_resolve(site, pages):
    problems = []
    for name, page in pages.items():
        for address in page.links + page.loads:
            if outside(address): continue
            to = urlsplit(urljoin(name, address))
            target, anchor = unquote(to.path), unquote(to.fragment)
            if not (site / target).is_file(): problems.append((name, address, 'no such file'))
            elif anchor and anchor not in pages[target].ids: problems.append((name, address, 'no such anchor'))
    assert not problems


def test_pages_load_nothing_from_outside_and_are_small(site, pages):
    assert not [(name, a) for name, page in pages.items() for a in page.loads if outside(a)]
    assert not [p.name for p in [*site.rglob('*.html'), *(site / '_images').iterdir()] if p.stat().st_size > 3e6]


def test_pictures_are_described(pages):
    alts = {(name, src): alt for name, page in pages.items() for src, alt in page.alts.items()}
    assert len(alts) > 100
    assert not [(key, alt) for key, alt in alts.items() if len(alt.split()) < 3 or alt.startswith('<') or alt.endswith('.png')]


def text_of(path): return ' '.join(re.sub(r'<[^>]+>', '', path.read_text(encoding='utf-8')).split())


def test_hidden_cells_and_directives_are_gone_and_solutions_fold(site):
    for path in site.rglob('*.html'): assert not re.search(r'<span class="c1?">#\||<span class="n">nbdev_export</span>', path.read_text(encoding='utf-8')), path.name
    html = (site / '01_energy.html').read_text(encoding='utf-8')
    folded = re.findall(r'<details><summary>Solution</summary>(.*?)</details>', html, re.S)
    assert len(folded) >= 2 and all('<div class="highlight' in text for text in folded)


def test_comments_behind_parameters_are_their_descriptions(site):
    samplers, training = text_of(site / 'api' / 'vaebm.samplers.html'), text_of(site / 'api' / 'vaebm.training.html')
    for text in ('Exported by 02 Langevin dynamics', 'eps – starting points, shape (B, D)', 'step_size – eta in Eq. 2', 'accepted – share of accepted proposals per chain, shape (B,)'): assert text in samplers, text
    assert 'Alias for field number' not in samplers + training


@pytest.fixture(scope='module')
def browse(site, browser):
    "Open a page of the site by its path; also what it said on the console and whom it asked."
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home, said, asked = f'http://127.0.0.1:{server.server_port}/', [], []
    tab = browser.new_context(viewport=PHONE).new_page()
    tab.on('console', lambda message: said.append(message.text) if message.type in ('error', 'warning') else None)
    tab.on('pageerror', lambda error: said.append(str(error)))
    tab.on('request', lambda request: asked.append(request.url))
    def visit(path):
        said.clear(); asked.clear()
        tab.goto(home + path)
        return tab, said, [url for url in asked if not url.startswith((home, 'data:'))]
    yield visit
    server.shutdown()


def test_a_browser_shows_every_page_also_on_a_phone(browse, pages):
    problems, formulas = {}, 0
    for name, page in pages.items():
        tab, said, strangers = browse(name)
        seen = tab.evaluate(LOOK)
        formulas += seen['formulas']
        wrong = {'console': list(said), 'other hosts': strangers, 'too wide': seen['width'] > PHONE['width'], 'formulas': seen['wrong'] or seen['raw'] or seen['formulas'] < page.formulas, 'pictures': seen['broken']}
        if any(wrong.values()): problems[name] = {k: v for k, v in wrong.items() if v}
    assert not problems and formulas > 500


def is_folded(cell): return 'hide-input' in cell['metadata'].get('tags', []) or cell['metadata'].get('jupyter', {}).get('source_hidden', False)


def test_cells_folded_in_notebooks_are_folded_on_the_site(site):
    for path in (ROOT / 'nbs').glob('*.ipynb'):
        wanted = sum(is_folded(cell) for cell in json.loads(path.read_text(encoding='utf-8'))['cells'])
        assert (site / f'{path.stem}.html').read_text(encoding='utf-8').count('tag_hide-input') == wanted, path.stem
        assert wanted or path.stem not in ('index', '15_explore')


def test_code_of_folded_cells_is_shown_on_demand_and_their_output_always(browse):
    tab, *_ = browse('index.html')
    cell = tab.locator('div.cell.tag_hide-input:has(.cell_output table)').first
    code = cell.locator('.cell_input pre')
    assert cell.locator('table').is_visible() and not code.is_visible()
    cell.locator('summary').click()
    assert code.is_visible()


def test_search_finds_the_replay_buffer_in_chapter_02(browse):
    tab, said, _ = browse('index.html')
    tab.set_viewport_size({'width': 1300, 'height': 900})
    tab.fill('input[name=q]', 'replay buffer')
    tab.press('input[name=q]', 'Enter')
    found = tab.locator('#search-results li a', has_text='02 Langevin dynamics').first
    found.click()
    assert '/02_langevin.html' in tab.url and tab.locator('article :text("replay buffer")').count() and not said
