//! The layout of all pages: links to the pages on the left, the content on the right.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};

use super::page::Navigation;

/// The pages of the guide: the last part of the path, the title in the navigation, and the text. The
/// first one is at `/docs/`.
pub(super) const PAGES: [(&str, &str, &str); 5] = [
    ("", "Guide", include_str!("../../../docs/api.md")),
    ("selectors", "Selectors", include_str!("../../../docs/selectors.md")),
    ("device-stream", "Live lists of devices", include_str!("../../../docs/device-stream.md")),
    ("remote", "Commands, shells, files", include_str!("../../../docs/remote.md")),
    ("clients", "Generated clients", include_str!("../../../docs/clients.md")),
];
/// Path of the reference.
pub(crate) const REFERENCE: &str = "/docs/reference";

/// Returns the response with a page. It needs nothing but the style sheet.
pub(super) fn page(html: String) -> Response {
    const POLICY: HeaderName = header::CONTENT_SECURITY_POLICY;
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    );
    ([(POLICY, policy)], Html(html)).into_response()
}

/// Returns a page with this content, and with links to all pages.
pub(super) fn document(title: &str, path: &str, navigation: &Navigation, content: &str) -> String {
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
