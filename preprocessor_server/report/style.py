"""How a report looks, in light and in dark."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5d6b7c;--line:#dfe4ea;--paper:#f5f7f9;
--card:#fff;--mark:#2f6fde;--track:#e6ebf1}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa7b6;--line:#2d3642;--paper:#12161c;
--card:#1a2029;--mark:#6ea3ff;--track:#2a323d}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main{max-width:1280px;margin:0 auto;padding:0 20px}
h1{font-size:22px;margin:24px 0 12px;overflow-wrap:anywhere}
h2{font-size:17px;margin:24px 0 8px}
h3{font-size:15px;margin:0;overflow-wrap:anywhere}
h4{font-size:12px;margin:14px 0 4px;color:var(--soft);font-weight:600}
small{font-weight:400;font-size:11px}
header p{color:var(--soft);margin:12px 0 0;max-width:80ch}
a{color:var(--mark);text-decoration:none}a:hover{text-decoration:underline}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th{font-size:12px;color:var(--soft);font-weight:600;text-align:left;white-space:nowrap}
.n{text-align:right}
.overview,.top{width:100%}
.overview{background:var(--card)}
.overview th,.overview td{padding:5px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
.overview th.n,.overview td.n{text-align:right}
.overview .name{white-space:normal;overflow-wrap:anywhere;min-width:180px;max-width:420px}
.type{color:var(--soft);font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px}
.bar{display:inline-block;width:64px;height:7px;margin-left:8px;background:var(--track);
border-radius:3px;overflow:hidden;vertical-align:middle}
.bar i{display:block;height:100%;background:var(--mark)}
dl{margin:8px 0 0;display:grid;
grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:6px 14px}
dl div{min-width:0}
dt{font-size:11px;color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
.files{grid-template-columns:repeat(auto-fit,minmax(120px,max-content));gap:10px 32px}
.files dd{font-size:16px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(400px,100%),1fr));gap:14px;
margin:24px 0;align-items:start}
article{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px;
min-width:0;scroll-margin-top:12px}
article:target{outline:2px solid var(--mark)}
article .type{margin:2px 0 0;overflow-wrap:anywhere}
svg{display:block;width:100%;height:72px;border-bottom:1px solid var(--line)}
rect{fill:var(--mark)}
.axis{display:flex;justify-content:space-between;margin:2px 0 6px;font-size:11px;color:var(--soft)}
.quantiles{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:12px;
font-variant-numeric:tabular-nums}
.top td{padding:2px 0 2px 10px;font-size:12px;white-space:nowrap}
.top td:first-child{padding-left:0;white-space:normal;overflow-wrap:anywhere;width:99%;
font-family:ui-monospace,Menlo,Consolas,monospace}
@media print{body{background:none}article{break-inside:avoid}}
""".strip()
