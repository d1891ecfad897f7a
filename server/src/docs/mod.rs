//! `/docs`: the guide to the API, from the pages in `docs/` of the repository, and the reference
//! from the OpenAPI document.

mod page;
mod problems;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;

use page::{Navigation, html_of};

/// The pages of the guide: the last part of the path, the title in the navigation, and the text. The
/// first one is at `/docs/`.
const PAGES: [(&str, &str, &str); 5] = [
    ("", "Guide", include_str!("../../../docs/api.md")),
    ("selectors", "Selectors", include_str!("../../../docs/selectors.md")),
    ("device-stream", "Live lists of devices", include_str!("../../../docs/device-stream.md")),
    ("remote", "Commands, shells, files", include_str!("../../../docs/remote.md")),
    ("clients", "Generated clients", include_str!("../../../docs/clients.md")),
];
const STYLE: &str = include_str!("guide.css");
/// Path of the reference.
pub(crate) const REFERENCE: &str = "/docs/reference";

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

/// Returns the response with a page. It needs nothing but the style sheet.
fn page(html: String) -> Response {
    const POLICY: HeaderName = header::CONTENT_SECURITY_POLICY;
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    );
    ([(POLICY, policy)], Html(html)).into_response()
}

/// Returns a page with this content, and with links to all pages.
fn document(title: &str, path: &str, navigation: &Navigation, content: &str) -> String {
    let mut links = String::new();
    for (name, title, _) in PAGES {
        let own = format!("/docs/{name}");
        links.push_str(&if own == path {
            let sections = navigation.html();
            format!("<li><a href=\"{own}\" aria-current=\"page\">{title}</a>{sections}</li>")
        } else {
            format!("<li><a href=\"{own}\">{title}</a></li>")
        });
    }
    for (path, title) in
        [("/problems", "Problems"), (REFERENCE, "Reference"), ("/openapi.json", "OpenAPI document")]
    {
        links.push_str(&format!("<li><a href=\"{path}\">{title}</a></li>"));
    }
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title} - muster API</title>\
         <link rel=\"stylesheet\" href=\"/docs/guide.css\"></head><body>\
         <nav><strong>muster API</strong><ul>{links}</ul></nav><main>{content}</main></body></html>"
    )
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
