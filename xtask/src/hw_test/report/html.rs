// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One self-contained HTML page: no script from elsewhere, no font, no image; follows the reader's light or dark setting.

use core::fmt::Write;

use super::super::event::{Group, Outcome, Phase, row};
use super::super::record::{Counts, Record, Run};
use super::{Report, chart, escape};

/// The whole page. Writing into a String cannot fail; hence the ignored results.
pub(super) fn render(report: &Report) -> String {
    let mut page = String::new();
    let verdict = if report.success { "passed" } else { "failed" };
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>hw-test {target}: {verdict}</title><style>{STYLE}</style></head><body><header><h1>hw-test {target} <b class=\"{verdict}\">{verdict}</b></h1><p>{} passed · {} failed · {} skipped · {:.1} s</p></header>",
        report.counts.passed,
        report.counts.failed,
        report.counts.skipped,
        report.duration_ms / 1e3,
        target = escape(&report.target),
    );
    overview(&mut page, report);
    problems(&mut page, report);
    for run in &report.runs {
        section(&mut page, run);
    }
    page.push_str("</body></html>\n");
    page
}

fn overview(page: &mut String, report: &Report) {
    page.push_str("<table class=\"matrix\"><thead><tr><th>group</th>");
    for run in &report.runs {
        let _ = write!(page, "<th>{}</th>", escape(&run.label));
    }
    page.push_str("</tr></thead><tbody>");
    for group in Group::ALL {
        let cells: Vec<_> = report.runs.iter().map(|run| Counts::of(of(run, group))).collect();
        if cells.iter().all(|counts| counts.total() == 0) {
            continue;
        }
        let _ = write!(page, "<tr><th>{group}</th>");
        for counts in cells {
            cell(page, counts);
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table>");
}

fn cell(page: &mut String, counts: Counts) {
    let Counts { passed, failed, skipped } = counts;
    let class = match (passed, failed, skipped) {
        (_, 1.., _) => "failed",
        (1.., 0, _) => "passed",
        (0, 0, 1..) => "skipped",
        (0, 0, 0) => "none",
    };
    let _ = write!(page, "<td class=\"{class}\">");
    let parts = [(passed, "✓"), (failed, "✗"), (skipped, "–")];
    for (count, sign) in parts.into_iter().filter(|(count, _)| *count > 0) {
        let _ = write!(page, "<span>{count}{sign}</span>");
    }
    page.push_str("</td>");
}

fn of(run: &Run, group: Group) -> impl Iterator<Item = &Record> {
    run.tests.iter().filter(move |test| test.group == group)
}

fn problems(page: &mut String, report: &Report) {
    let failed = || report.runs.iter().flat_map(|run| run.tests.iter().map(move |test| (run, test)));
    let mut failed = failed().filter(|(_, test)| test.outcome == Outcome::Failed).peekable();
    if failed.peek().is_none() {
        return;
    }
    page.push_str("<section><h2>Failures</h2>");
    for (run, test) in failed {
        let _ = write!(
            page,
            "<article class=\"failure\"><h3>{}</h3><pre>{}</pre>",
            escape(&row(&run.label, test.group, &test.name)),
            escape(test.reason.as_deref().unwrap_or("no reason given"))
        );
        if !test.output.is_empty() {
            let _ = write!(
                page,
                "<details><summary>output</summary><pre>{}</pre></details>",
                escape(&test.output.join("\n"))
            );
        }
        page.push_str("</article>");
    }
    page.push_str("</section>");
}

fn section(page: &mut String, run: &Run) {
    let counts = run.counts();
    let _ = write!(
        page,
        "<section><h2>{} <small>{} passed · {} failed · {} skipped · {:.1} s</small></h2>",
        escape(&run.label),
        counts.passed,
        counts.failed,
        counts.skipped,
        run.duration_ms / 1e3
    );
    facts(page, run);
    timelines(page, run);
    for group in Group::ALL {
        details(page, run, group);
    }
    page.push_str("</section>");
}

fn facts(page: &mut String, run: &Run) {
    let Some(facts) = &run.facts else { return };
    let kind = if facts.simulated { "simulated driver, kernel" } else { "kernel" };
    let _ = write!(page, "<p>{kind} {} {}</p><ul>", escape(&facts.kernel), escape(&facts.machine));
    for device in &facts.devices {
        let _ = write!(
            page,
            "<li><code>{}</code> {} · {} · {} by {} · rules of {}</li>",
            escape(&device.name),
            escape(&device.pci_id),
            escape(&device.capabilities),
            escape(&device.driver),
            escape(&device.access),
            escape(&device.profile)
        );
    }
    page.push_str("</ul>");
}

fn timelines(page: &mut String, run: &Run) {
    let drawn: Vec<_> = run.tests.iter().filter(|test| !test.phases.is_empty()).collect();
    if drawn.is_empty() {
        return;
    }
    page.push_str("<details open><summary>Timelines</summary><p class=\"legend\">");
    for (class, name) in LEGEND {
        let _ = write!(page, "<i class=\"{class}\"></i>{name} ");
    }
    page.push_str("</p><div class=\"charts\">");
    for test in drawn {
        let mut titles: Vec<&str> = Vec::new();
        for phase in &test.phases {
            if !titles.contains(&phase.migration.as_str()) {
                titles.push(&phase.migration);
            }
        }
        for title in titles {
            let phases: Vec<&Phase> = test.phases.iter().filter(|phase| phase.migration == title).collect();
            let title = if title.is_empty() { test.name.clone() } else { format!("{} · {title}", test.name) };
            page.push_str(&chart::render(&title, &phases));
        }
    }
    page.push_str("</div></details>");
}

fn details(page: &mut String, run: &Run, group: Group) {
    let counts = Counts::of(of(run, group));
    if counts.total() == 0 {
        return;
    }
    let open = if counts.failed > 0 { " open" } else { "" };
    let _ = write!(page, "<details{open}><summary>{group} <small>{} tests</small></summary><table>", counts.total());
    for test in of(run, group) {
        let (class, word) = match test.outcome {
            Outcome::Passed => ("passed", "✓"),
            Outcome::Failed => ("failed", "✗"),
            Outcome::Skipped => ("skipped", "–"),
        };
        let mut notes: Vec<&str> = test.reason.iter().map(String::as_str).collect();
        notes.extend(test.details.iter().map(String::as_str));
        let _ = write!(
            page,
            "<tr><td class=\"{class}\">{word}</td><td>{}</td><td class=\"note\">{}</td><td class=\"time\">{:.1} ms</td></tr>",
            escape(&test.name),
            escape(&notes.join("\n")),
            test.duration_ms
        );
    }
    page.push_str("</table></details>");
}

const LEGEND: [(&str, &str); 8] = [
    ("run", "RUNNING"),
    ("p2p", "RUNNING_P2P"),
    ("pre", "PRE_COPY"),
    ("prep2p", "PRE_COPY_P2P"),
    ("stop", "STOP"),
    ("copy", "STOP_COPY"),
    ("resume", "RESUMING, load"),
    ("commit", "commit"),
];

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--paper:#fff;--line:#d1d9e0;--box:#f6f8fa;--ok:#1a7f37;--bad:#cf222e;--warn:#9a6700}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9198a1;--paper:#0d1117;--line:#3d444d;--box:#151b23;--ok:#3fb950;--bad:#f85149;--warn:#d29922}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;border-bottom:1px solid var(--line);padding-bottom:.25rem;margin-top:2rem}h3{font-size:1rem;margin:.2rem 0}
small,header p,.note,.time{color:var(--soft);font-weight:normal}
.passed{color:var(--ok)}.failed{color:var(--bad)}.skipped{color:var(--warn)}
table{border-collapse:collapse;width:100%}td,th{padding:.15rem .6rem;text-align:left;vertical-align:top}
.matrix{width:auto;margin-top:1rem}.matrix td{border:1px solid var(--line);text-align:right;white-space:nowrap}.matrix span+span{margin-left:.5rem}
.note{white-space:pre-wrap}.time{text-align:right;white-space:nowrap}tr:nth-child(even) td{background:var(--box)}
pre{background:var(--box);padding:.6rem;overflow:auto;white-space:pre-wrap;margin:.3rem 0}
.failure{border-left:3px solid var(--bad);padding-left:.8rem;margin:1rem 0}
details{margin:.5rem 0}summary{cursor:pointer;font-weight:600}
figure{margin:1rem 0;border:1px solid var(--line);border-radius:6px;padding:.6rem}figcaption{font-weight:600;margin-bottom:.4rem}
svg{width:100%;height:auto;font:11px system-ui,sans-serif}svg text{fill:var(--soft)}svg .right{text-anchor:end}
.axis{fill:none;stroke:var(--line)}.curve{fill:none;stroke-width:2}.c0{stroke:#0969da}.c1{stroke:#bc4c00}.c2{stroke:#8250df}.c3{stroke:#1a7f37}
.run{fill:#2da44e;background:#2da44e}.p2p{fill:#94c973;background:#94c973}.pre{fill:#0969da;background:#0969da}.prep2p{fill:#6cb0f5;background:#6cb0f5}
.stop{fill:#8c959f;background:#8c959f}.copy{fill:#bc4c00;background:#bc4c00}.resume{fill:#8250df;background:#8250df}.commit{fill:#d4a72c;background:#d4a72c}.error{fill:#cf222e}.other{fill:#afb8c1}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .3em 0 .8em}
";

#[cfg(test)]
mod test {
    use super::*;
    use crate::hw_test::report::test::sample;

    #[test]
    fn nothing_from_a_device_becomes_markup() {
        let page = render(&sample());
        for raw in ["mtty <1>", "a \"b\" <c>", "expected <x>", "detail <d>", "<a> source", "a&b"] {
            assert!(!page.contains(raw), "{raw:?} was not escaped");
        }
        assert!(page.contains("a &quot;b&quot; &lt;c&gt;"));
        assert!(page.contains("mtty &lt;1&gt;"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = render(&sample());
        for word in ["http://", "https://", "<script", "<link", "@import", "url("] {
            assert!(!page.contains(word), "{word:?}");
        }
    }

    #[test]
    fn a_timeline_has_a_rectangle_per_phase() {
        let page = render(&sample());
        assert_eq!(page.matches("<svg").count(), 3);
        assert_eq!(page.matches("<rect class=\"copy\"").count(), 3);
    }
}
