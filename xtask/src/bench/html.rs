// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Outcomes as one self-contained page: a table and a plot of ratios for each comparison, in the reader's light or dark.

use core::fmt::Write;

use super::Goal;
use super::measure::{Measured, Outcome};
use super::report::{Document, machine, value};

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2330;--soft:#667085;--line:#d5dae3;--card:#fff;--page:#f5f6f8;--bar:#4c78c8;--good:#1a7f4b;--bad:#c22f2f;--quiet:#8a6d1a}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;--line:#39414f;--card:#1d222b;--page:#14181f;--bar:#7aa2e8;--good:#4cc38a;--bad:#f2726f;--quiet:#d9b44a}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:0 auto;max-width:60rem;padding:1.5rem}\
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:0 0 .5rem}p{color:var(--soft);margin:.3rem 0}\
section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:1rem;margin:.8rem 0}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{text-align:right;padding:.2rem .6rem;border-bottom:1px solid var(--line)}\
th:first-child,td:first-child{text-align:left}th{font-weight:600;color:var(--soft)}tr:last-child td{border:0}\
svg{width:100%;height:auto;margin-top:.6rem;display:block}svg text{fill:var(--ink);font-size:12px}svg .soft{fill:var(--soft)}\
.bar{fill:var(--bar);opacity:.85}.spread{stroke:var(--ink);stroke-width:1.5}.goal{stroke:var(--bad);stroke-dasharray:4 3;stroke-width:1.5}.one{stroke:var(--soft)}\
.reached{color:var(--good)}.MISSED{color:var(--bad);font-weight:700}.noisy{color:var(--quiet)}";

/// The whole page. Writing into a String cannot fail; hence the ignored results.
pub(super) fn page(document: &Document<'_>) -> String {
    let mut page = String::new();
    let count = |verdict| document.comparisons.iter().flat_map(judged).filter(|judged| *judged == verdict).count();
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>savevm bench</title><style>{STYLE}</style></head><body><h1>bench</h1>\
         <p>{}</p>\
         <p><b class=\"reached\">{} goals reached</b> · <b class=\"MISSED\">{} missed</b> · <b class=\"noisy\">{} not judged</b></p>\
         <p>Ratios are to the baseline of each table, within a round; the bar is their median, the line on it reaches from the lower to the \
         upper quartile, the dashed line is the goal. A baseline that varies too much judges nobody. Values of two machines cannot be compared.</p>",
        escape(&machine(document)),
        count("reached"),
        count("MISSED"),
        count("noisy"),
    );
    let mut group = "";
    for outcome in document.comparisons {
        let (benchmark, what) = outcome.name.split_once('/').unwrap_or(("", &outcome.name));
        if benchmark != group {
            group = benchmark;
            let _ = write!(page, "<h2>{}</h2>", escape(group));
        }
        section(&mut page, what, outcome);
    }
    page.push_str("</body></html>\n");
    page
}

fn judged(outcome: &Outcome) -> impl Iterator<Item = &'static str> + '_ {
    outcome.contenders.iter().filter_map(verdict)
}

fn verdict(measured: &Measured) -> Option<&'static str> {
    measured.goal?;
    Some(match measured.reached {
        Some(true) => "reached",
        Some(false) => "MISSED",
        None => "noisy",
    })
}

fn section(page: &mut String, what: &str, outcome: &Outcome) {
    let _ = write!(
        page,
        "<section><h3>{}</h3><table><tr><th>{} rounds</th><th>median</th><th>ratio</th><th>quartiles</th><th>goal</th><th></th></tr>",
        escape(what),
        outcome.rounds
    );
    for (index, measured) in outcome.contenders.iter().enumerate() {
        let shown = value(outcome.unit, measured.value.median);
        let _ = write!(page, "<tr><td>{}</td><td>{shown}</td>", escape(measured.name));
        if index == 0 {
            page.push_str("<td colspan=\"4\">baseline</td></tr>");
            continue;
        }
        let ratio = &measured.ratio;
        let verdict = verdict(measured).unwrap_or_default();
        let goal = measured.goal.map_or_else(String::new, |goal| goal.to_string());
        let said = if verdict == "noisy" { "not judged: too much noise" } else { verdict };
        let _ = write!(
            page,
            "<td>{:.2}</td><td>{:.2} – {:.2}</td><td>{goal}</td><td class=\"{verdict}\">{said}</td></tr>",
            ratio.median, ratio.quartile_low, ratio.quartile_high
        );
    }
    page.push_str("</table>");
    plot(page, outcome);
    page.push_str("</section>");
}

/// Where the plot's bars begin and end, and how high a row is.
const LEFT: f64 = 230.0;
const WIDTH: f64 = 520.0;
const ROW: f64 = 24.0;

fn plot(page: &mut String, outcome: &Outcome) {
    let goal = |measured: &Measured| measured.goal.map(Goal::ratio);
    let reaches = |measured: &Measured| measured.ratio.quartile_high.max(goal(measured).unwrap_or(1.0));
    let most = outcome.contenders.iter().map(reaches).fold(1.0, f64::max) * 1.05;
    let rows = f64::from(u32::try_from(outcome.contenders.len()).unwrap_or(u32::MAX));
    let x = |ratio: f64| LEFT + WIDTH * (ratio / most).clamp(0.0, 1.0);
    let _ = write!(page, "<svg viewBox=\"0 0 820 {:.0}\" role=\"img\" aria-label=\"ratios\">", rows * ROW + 4.0);
    let _ =
        write!(page, "<line class=\"one\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"0\" y2=\"{1:.1}\"/>", x(1.0), rows * ROW);
    let mut top = 4.0;
    for measured in &outcome.contenders {
        let (ratio, middle) = (&measured.ratio, top + 8.0);
        let _ = write!(
            page,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><rect class=\"bar\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"16\" rx=\"2\"/>\
             <line class=\"spread\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/><text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\">{:.2}</text>",
            LEFT - 8.0,
            top + 12.0,
            escape(measured.name),
            x(ratio.median) - LEFT,
            x(ratio.quartile_low),
            x(ratio.quartile_high),
            x(reaches(measured)) + 8.0,
            top + 12.0,
            ratio.median,
        );
        if let Some(goal) = goal(measured) {
            let at = x(goal);
            let _ = write!(
                page,
                "<line class=\"goal\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top:.1}\" y2=\"{:.1}\"/>",
                top + 16.0
            );
        }
        top += ROW;
    }
    page.push_str("</svg>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod test {
    use super::super::report::document;
    use super::super::{Comparison, Contender, Unit, measure};
    use super::page;
    use crate::bench::Goal;

    #[test]
    fn the_page_says_who_reached_what_and_needs_nothing_from_elsewhere() {
        let comparison = Comparison {
            name: "test/a < b".into(),
            unit: Unit::Milliseconds,
            baseline: Contender::new("base", None, || Ok(4.0)),
            contenders: vec![
                Contender::new("quick", Some(Goal::AtMost(0.6)), || Ok(2.0)),
                Contender::new("late", Some(Goal::AtMost(1.1)), || Ok(5.0)),
            ],
        };
        let outcomes = [measure::compare(comparison, 1).unwrap()];
        let page = page(&document(&outcomes, true));
        for part in [
            "a &lt; b",
            ">reached<",
            ">MISSED<",
            "<td>0.50</td>",
            "<td>1.25</td>",
            "4.0 ms",
            "<svg",
            "prefers-color-scheme",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        for part in ["http", "<script", "<img", "url("] {
            assert!(!page.contains(part), "{part}");
        }
        // Both plots' bars: half and one and a quarter of the baseline's length.
        assert_eq!(page.matches("class=\"bar\"").count(), 3);
        assert_eq!(page.matches("class=\"goal\"").count(), 2);
    }
}
