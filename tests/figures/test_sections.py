"""Pages of sentences, tables and figures: nothing breaks out of them, nothing is fetched."""

import html
import json
import re

import plotly.graph_objects as go

from v4kit.figures.sections import Section, Table, write_sections

HOSTILE = "</script><script>alert(1)</script>"


def figure(title):
    return go.Figure(go.Scatter(x=[1], y=[1], text=[HOSTILE]), {"title": {"text": title}})


def test_what_a_page_holds(tmp_path) -> None:
    sections = [
        Section("One", ["all is well"], figures=[figure("A")]),
        Section(
            HOSTILE,
            [HOSTILE],
            text=f"  two\n{HOSTILE}",
            tables=[Table([HOSTILE, "n"], [[HOSTILE, "1"]], HOSTILE)],
            figures=[figure("B"), figure("C")],
            wrong=True,
        ),
    ]
    path = write_sections(sections, tmp_path / "deep" / "a.html", title=HOSTILE)
    page = path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["a.html"]
    safe = html.escape(HOSTILE)
    assert "alert(1)</script>" not in page
    for place in ("<h1>{}</h1>", '<h2 id="part-1">{}</h2>', '<p class="notice">{}</p>',
                  "<pre>  two\n{}</pre>", "<caption>{}</caption>", '<th scope="col">{}</th>',
                  '<th scope="row">{}</th>'):  # fmt: skip
        assert place.format(safe) in page, place
    assert "<p>all is well</p>" in page
    names = re.findall(r'id="(figure-\d)" role="group" aria-label="(.*?)"', page)
    assert names == [("figure-0", "A"), ("figure-1", "B"), ("figure-2", "C")]
    (data,) = re.findall(r'json" id="data">(.*?)</script>', page, re.DOTALL)
    drawn = json.loads(data)["figures"]
    assert [one["layout"]["title"]["text"] for one in drawn] == ["A", "B", "C"]


def test_a_page_asks_nothing(tmp_path) -> None:
    page = write_sections([Section("A")], tmp_path / "a.html", title="A").read_text("utf-8")
    own = page.replace(page[page.index("<script>") : page.rindex("</body>")], "")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", own)
    assert "default-src 'none'" in html.unescape(page)
