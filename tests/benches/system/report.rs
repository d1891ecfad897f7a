//! The table: one row for each measurement, for a terminal or as markdown.

use crate::machine;

/// One measurement.
#[derive(Debug)]
pub(crate) struct Row {
    /// Letter in the issue and the docs, and a description.
    pub(crate) description: String,
    /// muster's result.
    pub(crate) value: String,
    /// The peer's result in the same run.
    pub(crate) peer: String,
    /// muster's result as a share of the peer's.
    pub(crate) ratio: Option<f64>,
    /// The target as text; empty when there is none.
    pub(crate) target: String,
    /// Whether it is met.
    pub(crate) is_met: Option<bool>,
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

const HEAD: [&str; 6] = ["measurement", "muster", "peer", "ratio", "target", "met"];

impl Report {
    /// Adds a row and prints it immediately: a run takes minutes.
    pub(crate) fn add(&mut self, row: Row) {
        eprintln!("         {}", row.cells().join("  |  "));
        self.rows.push(row);
    }

    /// Adds events or points per second, compared with a peer's; `at_least` is the target share.
    pub(crate) fn rate(
        &mut self,
        description: &str,
        own: f64,
        peer: (&str, f64),
        ratio: f64,
        at_least: Option<f64>,
    ) {
        self.add(Row {
            description: description.to_owned(),
            value: format!("{}/s", thousands(own)),
            peer: format!("{}: {}/s", peer.0, thousands(peer.1)),
            ratio: Some(ratio),
            target: at_least.map_or(String::new(), |share| format!("≥ {:.0} %", 100.0 * share)),
            is_met: at_least.map(|share| ratio >= share),
        });
    }

    /// The table for a terminal.
    pub(crate) fn text(&self) -> String {
        let rows: Vec<[String; 6]> = self.table();
        let widths: Vec<usize> = (0..HEAD.len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = format!("\n{}\n\n", machine::describe());
        for row in &rows {
            for (cell, width) in row.iter().zip(&widths) {
                text.push_str(&format!("{cell:<width$}  "));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// The table for docs/performance.md.
    pub(crate) fn markdown(&self) -> String {
        let mut lines = vec![machine::describe(), String::new()];
        for (index, row) in self.table().iter().enumerate() {
            lines.push(format!("| {} |", row.join(" | ")));
            if index == 0 {
                lines.push("|---".repeat(HEAD.len()) + "|");
            }
        }
        lines.join("\n")
    }

    fn table(&self) -> Vec<[String; 6]> {
        std::iter::once(HEAD.map(str::to_owned)).chain(self.rows.iter().map(Row::cells)).collect()
    }
}

impl Row {
    fn cells(&self) -> [String; 6] {
        let ratio = self.ratio.map_or(String::new(), |ratio| format!("{:.0} %", 100.0 * ratio));
        let met = match self.is_met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        [
            self.description.clone(),
            self.value.clone(),
            self.peer.clone(),
            ratio,
            self.target.clone(),
            met.to_owned(),
        ]
    }
}

/// Formats a number with three significant digits, as `183 400`.
pub(crate) fn thousands(number: f64) -> String {
    let rounded =
        if number >= 10_000.0 { (number / 100.0).round() * 100.0 } else { number.round() };
    let digits = format!("{rounded:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}
