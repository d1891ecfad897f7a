//! `muster selectors` and `muster help selectors`: the page about selectors.

use crate::output::line;

/// The page; docs/selectors.md is its only source.
pub(crate) const PAGE: &str = include_str!("../../../docs/selectors.md");

/// Prints the page.
pub(crate) fn run() {
    line(PAGE.trim_end());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use muster_schemas::selector::{
        Field, MAX_CONDITIONS, MAX_DEPTH, MAX_LENGTH, MAX_VALUES, STATUSES, Selector,
    };

    use super::*;
    use crate::args::Args;

    /// Returns the texts in backquotes of a line.
    fn code(line: &str) -> impl Iterator<Item = &str> {
        line.split('`').skip(1).step_by(2)
    }

    /// Returns the first cells of the table that follows a heading.
    fn first_cells(heading: &str) -> Vec<&'static str> {
        let section = PAGE.split_once(heading).map(|(_, rest)| rest).unwrap();
        let lines = section.lines().skip_while(|line| !line.starts_with('|'));
        let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
        rows.filter_map(|row| row.split(" | ").next()).collect()
    }

    #[test]
    fn help_prints_the_page() {
        let help = ["muster", "help", "selectors"];
        let printed = Args::command().try_get_matches_from(help).unwrap_err().to_string();
        assert_eq!(printed.trim_end(), PAGE.trim_end());
    }

    #[test]
    fn every_example_of_the_page_is_a_selector() {
        let blocks = PAGE.split("```selector\n").skip(1);
        let lines = blocks.flat_map(|block| block.split("```").next().unwrap().lines());
        let cells = first_cells("## Conditions").into_iter().flat_map(code);
        let mut count = 0;
        for text in lines.chain(cells) {
            count += 1;
            assert!(text.parse::<Selector>().is_ok(), "{text}: {:?}", text.parse::<Selector>());
        }
        assert!(count > 25, "{count}");
    }

    #[test]
    fn the_errors_of_the_page_are_errors() {
        let section = PAGE.split_once("## Errors").map(|(_, rest)| rest).unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let mut count = 0;
        for row in rows.take_while(|row| !row.contains("DEVICE")) {
            count += 1;
            let (selector, error) = row.split_once("` | ").unwrap();
            let selector = selector.trim_start_matches("| `");
            let found = match selector.parse::<Selector>() {
                Err(error) => error.to_string(),
                Ok(parsed) => parsed.misspelt()[0].error(selector).to_string(),
            };
            let expected: String = error.split_inclusive(['?', '|']).next().unwrap().to_owned();
            let expected = expected.trim_end_matches(['|', ' ']);
            assert!(found.contains(expected), "{selector}: {found}");
        }
        assert_eq!(count, 4);
    }

    #[test]
    fn the_page_names_all_fields_units_and_limits() {
        let names = Field::ALL.map(Field::as_str).into_iter().chain(STATUSES);
        let names = names.map(|name| format!("`{name}`"));
        let limits = [
            format!("at most {MAX_LENGTH} bytes, {MAX_CONDITIONS} conditions"),
            format!("{MAX_VALUES} values in one"),
            format!("{MAX_DEPTH} nested"),
        ];
        for text in names.chain(limits) {
            assert!(PAGE.contains(&text), "{text} is missing");
        }
        let mut units = 0;
        for unit in first_cells("- Only numbers are compared").into_iter().flat_map(code) {
            units += 1;
            let number = if unit.contains(char::is_numeric) { "" } else { "1" };
            let selector = format!("app.value > {number}{unit}");
            assert!(selector.parse::<Selector>().is_ok(), "{selector}");
        }
        assert_eq!(units, 29);
    }
}
