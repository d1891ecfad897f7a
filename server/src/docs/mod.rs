//! `/docs`: the guide to the API, from the pages in `docs/` of the repository, and the reference
//! from the OpenAPI document.

mod layout;
mod page;
mod problems;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;

pub(crate) use layout::REFERENCE;

use layout::{PAGES, document, page};
use page::{Navigation, html_of};

const STYLE: &str = include_str!("guide.css");
/// Returns the routes of the guide and of the pages that explain problems.
pub(crate) fn router() -> Router {
    let mut router = Router::new()
        .route("/", get(|| async { Redirect::to("/docs/") }))
        .route("/docs", get(|| async { Redirect::permanent("/docs/") }))
        .route("/docs/guide.css", get(style))
        .merge(problems::router());
    for (name, title, text) in PAGES {
        let navigation = Navigation::of(text);
        let html = document(title, &format!("/docs/{name}"), &navigation, &html_of(text));
        router = router.route(&format!("/docs/{name}"), get(async || page(html)));
    }
    router
}

async fn style() -> impl IntoResponse {
    let kind = HeaderValue::from_static("text/css; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], STYLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The issue of a guide: what it must explain.
    #[test]
    fn the_guide_has_a_section_for_each_topic() {
        let (_, _, guide) = PAGES[0];
        let sections = Navigation::of(guide).html();
        for topic in [
            "sign-in",
            "names",
            "lists",
            "filters",
            "writes",
            "errors",
            "caching",
            "events",
            "websockets",
            "versions",
        ] {
            assert!(sections.contains(topic), "{topic} is not in {sections}");
        }
    }

    #[test]
    fn links_between_pages_lead_to_pages() {
        for (name, _, text) in PAGES {
            let html = html_of(text);
            for link in html.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                let (path, _) = link.split_once('#').unwrap_or((link, ""));
                let is_page = PAGES.iter().any(|(name, ..)| path == format!("/docs/{name}"));
                let is_known = is_page
                    || path.is_empty()
                    || path.starts_with("https://")
                    || path.starts_with("/problems")
                    || path == "/openapi.json";
                assert!(is_known, "{link} in /docs/{name}");
            }
        }
    }
}
