"""The HTML page: self-contained, escaped, well-formed, complete."""

import base64
import html.parser
import re

import numpy as np
import pytest

from tokpress_jax import viz

_VOID = {'meta', 'img', 'source', 'br', 'link'}


class _Checker(html.parser.HTMLParser):
  """Collects tags, attributes and text; fails on tags that do not nest."""

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.text = [], [], ''

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in _VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


def _page():
  png = viz.png(viz.sheet([np.zeros((1, 2, 2, 1), np.uint8)]))
  table = viz.Table(
    columns=('tokens', 'PSNR (dB)'),
    rows=((1, 12.34567), (np.int64(20000), None), ('<all>', 123456.7)),
    caption='Test images; <tokpress evaluate>',
  )
  sections = [
    viz.Section(
      title='A & B',
      text='1 < 2',
      items=[
        viz.Picture(png=png, caption='"quoted"', dark_png=png + b'dark'),
        table,
      ],
      command='tokpress evaluate runs/a && echo',
    )
  ]
  return viz.page_html('Title <1>', sections, lead='Lead'), png, table


def test_page_is_well_formed_and_complete():
  text, png, _ = _page()
  checker = _Checker()
  checker.feed(text)
  assert not checker.open
  shown = ' '.join(checker.text.split())
  for part in ('Title <1>', 'Lead', 'A & B', '1 < 2', '12.35', '20000', '–'):
    assert part in shown
  assert '<all> 123457'.replace(' ', '') in shown.replace(' ', '')
  (image,) = [a for tag, a in checker.tags if tag == 'img']
  assert image['alt'] == '"quoted"'
  assert base64.b64decode(image['src'].split(',')[1]) == png
  (dark,) = [a for tag, a in checker.tags if tag == 'source']
  assert base64.b64decode(dark['srcset'].split(',')[1]) == png + b'dark'
  assert 'viewport' in [a.get('name') for tag, a in checker.tags if a]


def test_page_refers_to_nothing_outside(tmp_path):
  text, _, _ = _page()
  assert not re.search(r'https?:|<script|<link|url\(|@import', text)
  viz.write_page(tmp_path / 'index.html', 'T', [viz.Section(title='a')])
  assert '<h2>a</h2>' in (tmp_path / 'index.html').read_text()


def test_table_as_text_is_aligned():
  _, _, table = _page()
  assert table.text().splitlines() == [
    'tokens  PSNR (dB)',
    '1           12.35',
    '20000           –',
    '<all>      123457',
  ]


def test_rows_must_fit_the_columns():
  with pytest.raises(ValueError, match=r'\[1\]'):
    viz.Table(columns=('a', 'b'), rows=((1, 2), (1,)), caption='')
