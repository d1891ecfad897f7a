//! Pages that explain problems: the `type` of a problem document is the path of one.

use std::fmt::Write;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use muster_api::Problem;
use muster_api::problem::Kind;

use super::layout;
use super::page::Navigation;

/// Returns the routes of the pages.
pub(super) fn router() -> Router {
    Router::new().route("/problems", get(index)).route("/problems/{name}", get(page))
}

async fn index() -> Response {
    let mut rows = String::new();
    for kind in Kind::ALL {
        let _ = write!(
            rows,
            "<tr><td><a href=\"{}\">{}</a></td><td>{}</td><td>{}</td></tr>",
            kind.path(),
            kind.name(),
            kind.status().as_u16(),
            formatted(kind.meaning()),
        );
    }
    let table =
        format!("<table><tr><th>type</th><th>status</th><th>meaning</th></tr>{rows}</table>");
    html("Problems", &table)
}

async fn page(Path(name): Path<String>) -> Response {
    let Some(kind) = Kind::ALL.iter().find(|kind| kind.name() == name) else {
        return Problem::not_found("there is no such kind of problem; see /problems")
            .into_response();
    };
    let body = format!(
        "<p>Status {}</p><p>{}</p><p>{}</p><p><a href=\"/problems\">All problems</a></p>",
        kind.status().as_u16(),
        formatted(kind.meaning()),
        formatted(kind.action()),
    );
    html(kind.title(), &body)
}

fn html(title: &str, body: &str) -> Response {
    let content = format!("<h1>{title}</h1>{body}");
    layout::page(layout::document(title, "/problems", &Navigation::of(""), &content))
}

/// Formats text for HTML; `code` becomes code.
fn formatted(text: &str) -> String {
    let text = text.trim().replace('&', "&amp;").replace('<', "&lt;");
    let mut parts = text.split('`');
    let mut formatted = parts.next().unwrap_or_default().to_owned();
    while let (Some(code), rest) = (parts.next(), parts.next()) {
        let _ = write!(formatted, "<code>{code}</code>{}", rest.unwrap_or_default());
    }
    formatted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_formatted() {
        assert_eq!(formatted(" a `b<c` d `e`."), "a <code>b&lt;c</code> d <code>e</code>.");
        assert_eq!(formatted("a"), "a");
    }

    #[tokio::test]
    async fn every_problem_has_a_page() {
        for kind in Kind::ALL {
            let response = page(Path(kind.name().to_owned())).await;
            assert_eq!(response.status(), 200, "{kind:?}");
        }
        assert_eq!(page(Path("x".to_owned())).await.status(), 404);
        let index = axum::body::to_bytes(index().await.into_body(), 100_000).await.unwrap();
        assert!(String::from_utf8_lossy(&index).contains("/problems/name-taken"));
    }
}
