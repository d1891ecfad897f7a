//! Patterns of the policy: texts in which `*` matches any characters. Pure.

/// Whether a pattern matches a text. `*` matches any characters, including none.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        // The first match suffices: it leaves the most room for the rest.
        let Some(position) = rest.find(part) else { return false };
        rest = &rest[position + part.len()..];
    }
    rest.ends_with(last)
}

/// Whether a pattern matches a program and its arguments. It is compared argument by argument, so
/// that one argument with spaces does not match several; a `*` at the end matches any further
/// arguments.
pub(super) fn matches_argv(pattern: &str, argv: &[String]) -> bool {
    let mut words: Vec<&str> = pattern.split_whitespace().collect();
    let is_open = words.last() == Some(&"*");
    if is_open {
        words.pop();
    }
    let length_fits = if is_open { argv.len() >= words.len() } else { argv.len() == words.len() };
    length_fits && words.iter().zip(argv).all(|(word, argument)| matches(word, argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_characters() {
        for (pattern, text, expected) in [
            ("uptime", "uptime", true),
            ("uptime", "uptimes", false),
            ("uptime", "/bin/uptime", false),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*a", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn programs_are_matched_argument_by_argument() {
        for (pattern, argv, expected) in [
            ("/usr/bin/uptime", &["/usr/bin/uptime"][..], true),
            ("/usr/bin/uptime", &["/usr/bin/uptime", "-p"], false),
            ("systemctl status *", &["systemctl", "status", "ssh"], true),
            ("systemctl status *", &["systemctl", "status"], true),
            ("systemctl status *", &["systemctl", "stop", "ssh"], false),
            ("systemctl status *", &["systemctl status ssh"], false),
            ("systemctl restart app-*", &["systemctl", "restart", "app-1"], true),
            ("systemctl restart app-*", &["systemctl", "restart", "app-1", "ssh"], false),
            ("*", &["anything"], true),
            ("*", &["anything", "else"], true),
            ("", &[], true),
        ] {
            let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(matches_argv(pattern, &argv), expected, "{pattern} {argv:?}");
        }
    }
}
