//! Markdown of the repository's documentation as HTML.

use std::fmt::Write;

use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

/// Pages that links may lead to, by the name of their file.
const LINKED: [(&str, &str); 5] = [
    ("api.md", "/docs/"),
    ("selectors.md", "/docs/selectors"),
    ("device-stream.md", "/docs/device-stream"),
    ("remote.md", "/docs/remote"),
    ("clients.md", "/docs/clients"),
];

/// The sections of a page: id and title.
pub(super) struct Navigation(Vec<(String, String)>);

impl Navigation {
    /// Returns the sections of a text.
    pub(super) fn of(text: &str) -> Self {
        let sections = headings(text).into_iter().filter(|(level, _)| *level == HeadingLevel::H2);
        Self(sections.map(|(_, title)| (anchor(&title), title)).collect())
    }

    /// Returns the list of the sections.
    pub(super) fn html(&self) -> String {
        let mut list = "<ul>".to_owned();
        for (id, title) in &self.0 {
            let _ = write!(list, "<li><a href=\"#{id}\">{}</a></li>", escaped(title));
        }
        list + "</ul>"
    }
}

fn events(text: &str) -> impl Iterator<Item = Event<'_>> {
    Parser::new_ext(text, Options::ENABLE_TABLES)
}

/// Returns the id of a heading, as in the links of the pages: lower case, `-` for a space.
fn anchor(title: &str) -> String {
    let kept = title.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Returns the content of a page.
pub(super) fn html_of(text: &str) -> String {
    let mut headings = headings(text).into_iter();
    let mut is_linked = Vec::new();
    let mut shown = Vec::new();
    for event in events(text) {
        match event {
            Event::Start(Tag::Heading { level, classes, attrs, .. }) => {
                let id = headings.next().map(|(_, title)| CowStr::from(anchor(&title)));
                shown.push(Event::Start(Tag::Heading { level, id, classes, attrs }));
            }
            // A link to a file that is not a page is shown as text.
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                let target = target(&dest_url);
                is_linked.push(target.is_some());
                if let Some(target) = target {
                    let dest_url = CowStr::from(target);
                    shown.push(Event::Start(Tag::Link { link_type, dest_url, title, id }));
                }
            }
            Event::End(TagEnd::Link) => {
                if is_linked.pop() == Some(true) {
                    shown.push(Event::End(TagEnd::Link));
                }
            }
            Event::Start(Tag::Table(columns)) => {
                shown.push(Event::Html("<div class=\"table\">".into()));
                shown.push(Event::Start(Tag::Table(columns)));
            }
            Event::End(TagEnd::Table) => {
                shown.push(Event::End(TagEnd::Table));
                shown.push(Event::Html("</div>".into()));
            }
            other => shown.push(other),
        }
    }
    let mut page = String::new();
    html::push_html(&mut page, shown.into_iter());
    page
}

/// Returns the level and the title of each heading.
fn headings(text: &str) -> Vec<(HeadingLevel, String)> {
    let (mut headings, mut open) = (Vec::new(), None);
    for event in events(text) {
        match event {
            Event::Start(Tag::Heading { level, .. }) => open = Some((level, String::new())),
            Event::Text(part) | Event::Code(part) => {
                if let Some((_, title)) = &mut open {
                    title.push_str(&part);
                }
            }
            Event::End(TagEnd::Heading(_)) => headings.extend(open.take()),
            _ => {}
        }
    }
    headings
}

/// Returns where a link leads to on the server; `None` for a file that the server does not have.
fn target(link: &str) -> Option<String> {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, id)| (path, Some(id)));
    let page = match path {
        "" => "",
        _ if path.starts_with("https://") => return Some(link.to_owned()),
        "openapi.json" => "/openapi.json",
        _ => LINKED.iter().find(|(file, _)| *file == path).map(|(_, page)| *page)?,
    };
    Some(match anchor {
        Some(anchor) => format!("{page}#{anchor}"),
        None => page.to_owned(),
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_have_ids_and_links_lead_to_pages_of_the_server() {
        let text =
            "# T\n\n## Sign in `x`\n\n[a](remote.md#files) [b](decisions/1.md) [c](#sign-in-x)\n";
        let html = html_of(text);
        assert!(html.contains("<h2 id=\"sign-in-x\">Sign in <code>x</code></h2>"), "{html}");
        assert!(
            html.contains("<a href=\"/docs/remote#files\">a</a> b <a href=\"#sign-in-x\">c</a>")
        );
        assert_eq!(
            Navigation::of(text).html(),
            "<ul><li><a href=\"#sign-in-x\">Sign in x</a></li></ul>"
        );
    }
}
