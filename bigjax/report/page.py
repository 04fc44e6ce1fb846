"""The page that reports are set on: plain HTML and CSS, light and dark, wide and narrow, nothing loaded."""
import html

STYLE = """
:root{--bg:#fbfbf9;--card:#fff;--ink:#1b1d21;--soft:#666c75;--line:#e6e6e1;--good:#1b7f4d;--bad:#c03a2b;--wait:#9a6b00;
--c0:#2b6cb0;--c1:#d9772b;--c2:#2f9e6e;--c3:#8a5cc2;--c4:#c2415c;--c5:#0f8f9c;--c6:#94801a;--c7:#6b7280}
@media(prefers-color-scheme:dark){:root{--bg:#131519;--card:#1a1d22;--ink:#e8e9eb;--soft:#9aa1ab;--line:#2b2f36;
--good:#5cc98d;--bad:#f08375;--wait:#e0b04f;--c0:#6ea8e6;--c1:#eb9c5c;--c2:#62c79b;--c3:#b294e6;--c4:#ea7f95;--c5:#57c3ce;
--c6:#cdb955;--c7:#9ca3af}}
*{box-sizing:border-box}
html{background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
-webkit-text-size-adjust:100%;font-variant-numeric:tabular-nums}
body{max-width:64rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;letter-spacing:-.02em;margin:0 0 .35rem;font-weight:650}
h2{font-size:.8rem;letter-spacing:.09em;text-transform:uppercase;color:var(--soft);font-weight:600;
margin:2.75rem 0 .8rem}
.verdict{font-size:1.12rem;margin:0;max-width:46rem}.verdict i{display:inline-block;width:.62em;height:.62em;
border-radius:50%;margin-right:.55em;background:var(--soft)}
.match .dot,.verdict.match i{background:var(--good)}.verdict.miss i,.verdict.failed i{background:var(--bad)}
.verdict.running i{background:var(--wait)}
span.match{color:var(--good);font-weight:600}span.miss{color:var(--bad);font-size:.85em;font-weight:600}
.headline,.note{color:var(--soft)}.headline{margin:.35rem 0 0;font-size:.95rem}.note{font-size:.85rem}
.wide{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.95rem;min-width:min(100%,30rem)}
th{font-weight:500;color:var(--soft);font-size:.85rem}th,td{text-align:right;padding:.42rem .9rem .42rem 0;
white-space:nowrap}
th:first-child,td:first-child{text-align:left}th:not(:first-child),td:not(:first-child){padding-left:.9rem}
td:last-child{padding-right:0}
thead th{border-bottom:1px solid var(--line)}tbody tr+tr td{border-top:1px solid var(--line)}
a{color:var(--c0);text-decoration:none}a:hover{text-decoration:underline}
section .body:has(figure){display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));
gap:1.1rem}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.9rem 1rem .7rem;
min-width:0}
figcaption{font-weight:600;font-size:.95rem}figcaption small{color:var(--soft);font-weight:400;margin-left:.4em}
.legend{font-size:.82rem;color:var(--soft);display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin-top:.15rem}
.legend i{display:inline-block;width:.9em;height:.2em;border-radius:2px;vertical-align:.25em;margin-right:.45em}
.legend b{color:var(--ink);font-weight:550;margin-left:.15em}
svg{display:block;width:100%;height:auto;margin-top:.4rem;overflow:visible}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}.grid{stroke:var(--line);stroke-width:1}
.curve{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}.band{opacity:.18;stroke:none}
.image img{width:100%;max-width:30rem;image-rendering:pixelated;margin-top:.6rem;border-radius:4px;display:block}
figure.text{grid-column:1/-1}pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.5rem 0 0;
font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre.command{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.75rem .95rem;margin:0}
table.confusion{min-width:0;font-size:.8rem}.confusion td,.confusion th:not(:first-child){padding:0;text-align:center;
min-width:2.7rem;height:2.2rem;border:1px solid var(--bg)}.confusion th:first-child{padding-right:.7rem}
.confusion td{background:color-mix(in srgb,var(--tone) calc(var(--p)*.72),var(--card))}
.confusion .right{--tone:var(--c0)}.confusion .wrong{--tone:var(--c1)}
.confusion tr+tr td{border-top:1px solid var(--bg)}
details{border-top:1px solid var(--line)}details:first-of-type{margin-top:3rem}details:last-of-type{
border-bottom:1px solid var(--line)}summary{cursor:pointer;padding:.7rem 0;font-weight:550;font-size:.95rem}
dl{columns:19rem;column-gap:2.5rem;margin:0 0 1.2rem;font-size:.85rem}
dl div{display:flex;justify-content:space-between;gap:1rem;break-inside:avoid;padding:.16rem 0}
dt{color:var(--soft)}dd{margin:0;text-align:right;overflow-wrap:anywhere}
@media(max-width:36rem){body{padding:1.5rem 1rem 3rem}h1{font-size:1.55rem}
.confusion td,.confusion th:not(:first-child){
min-width:2.1rem;height:1.9rem}th:not(:first-child),td:not(:first-child){padding-left:.5rem}th,td{padding-right:.5rem}
svg text{font-size:13px}}
@media print{details>*{display:block}figure{break-inside:avoid}}
"""


def page(title: str, verdict: tuple[str, str], headline: str, body: str) -> str:
    """A whole document; `title` and the verdict's text are plain, `headline` and `body` are HTML."""
    kind, text = verdict
    return ('<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<meta name="color-scheme" content="light dark"><title>{html.escape(title)}</title>'
            f'<style>{STYLE}</style></head>'
            f'<body><header><h1>{html.escape(title)}</h1><p class="verdict {kind}"><i></i>{html.escape(text)}</p>'
            f'<p class="headline">{headline}</p></header><main>{body}</main></body></html>\n')
