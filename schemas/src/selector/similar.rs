//! Names that resemble a text, for suggestions.

/// Returns the name that resembles the text: one mistake in a short name, two in one of five
/// characters or more, none (only upper case) in one of two. The text itself does not count.
#[must_use]
pub fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = text.to_lowercase();
    let mistakes = |name: &str| match name.len().min(lower.len()) {
        0..=2 => 0,
        3..=4 => 1,
        _ => 2,
    };
    names
        .into_iter()
        .filter(|name| *name != text)
        .map(|name| (strsim::osa_distance(&lower, name), name))
        .filter(|(distance, name)| *distance <= mistakes(name))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
