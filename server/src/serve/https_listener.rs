//! The HTTPS listener: the routes of query and command on one origin, with the OpenAPI document of
//! the API.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::HttpBody;
use axum::extract::DefaultBodyLimit;
use axum::http::{self, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::IntoResponse;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use muster_api::{ApiState, conditional, fallback};
use muster_command::keys::Certificates;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};
use utoipa_axum::router::OpenApiRouter;

use super::body::{self, MAX_BODY_BYTES};
use super::connections::{self, Connections};
use super::cors::CorsOrigins;
use super::forward::Forward;
use super::health::{self, Dependencies};
use super::install::Installer;
use super::limits::{self, Limits};
use super::paths;
use super::prometheus::{self, ProcessMetrics};
use super::proxies::{self, TrustedProxies};
use super::representation;
use super::request_id;
use super::tunnel::Tunnel;
use crate::{docs, openapi};

/// Timeout of a request's head, and of inactivity on a connection in use.
const INACTIVITY_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum duration of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Minimum size of a response that is compressed, in bytes: a smaller one fits in a packet anyway.
const MIN_COMPRESSED_BYTES: u64 = 1024;

/// The services of the listener.
#[derive(Default)]
pub(super) struct HttpsListener {
    routers: Vec<OpenApiRouter>,
    /// The routes of query, which read the resources that writes respond with.
    reader: Option<Router>,
    forward: Option<Forward>,
    installer: Option<Installer>,
    tunnel: Option<Tunnel>,
    metrics: Option<(ProcessMetrics, ApiState)>,
    /// Dependencies that `/readyz` checks in a process without the query role.
    dependencies: Option<Dependencies>,
    /// Limits on unauthenticated requests, in a listener that clients connect to directly.
    limits: Option<Limits>,
}

impl HttpsListener {
    pub(super) fn command(&mut self, router: OpenApiRouter) {
        self.routers.push(router);
    }

    /// Adds the query role: clients connect to this listener directly, not through another process.
    pub(super) fn query(&mut self, router: OpenApiRouter, limits: Limits) {
        self.reader = Some(router.clone().split_for_parts().0);
        self.routers.insert(0, router);
        self.limits = Some(limits);
    }

    /// Forwards requests without a route in this process to a command role.
    pub(super) fn forward(&mut self, forward: Forward) {
        self.forward = Some(forward);
    }

    pub(super) fn installer(&mut self, installer: Installer) {
        self.installer = Some(installer);
    }

    /// Adds the tunnel to the broker.
    pub(super) fn tunnel(&mut self, tunnel: Tunnel) {
        self.tunnel = Some(tunnel);
    }

    /// Adds this process's metrics, for `/metrics`.
    pub(super) fn metrics(&mut self, metrics: ProcessMetrics, api: ApiState) {
        self.metrics = Some((metrics, api));
    }

    /// Sets what `/readyz` checks; returns what it checked before.
    pub(super) fn dependencies(&mut self, needs: Dependencies) -> Option<Dependencies> {
        self.dependencies.replace(needs)
    }

    pub(super) fn has_services(&self) -> bool {
        !self.routers.is_empty()
    }

    /// Opens the listener; returns the future that serves requests until `stop`.
    pub(super) async fn open(
        self,
        listen: SocketAddr,
        certificates: Certificates,
        proxies: TrustedProxies,
        cors: &CorsOrigins,
        connections: Connections,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = Result<()>> + Send + 'static> {
        let app = self.routes(proxies, cors, connections.clone());
        let tls = RustlsConfig::from_pem_file(&certificates.chain, &certificates.key)
            .await
            .context("the server's certificate is not usable")?;
        let listener = std::net::TcpListener::bind(listen).with_context(|| {
            format!("failed to listen on {listen}; choose another with --port or --listen")
        })?;
        listener.set_nonblocking(true)?;
        let handle = Handle::new();
        let stopping = handle.clone();
        tokio::spawn(async move {
            stop.cancelled().await;
            stopping.graceful_shutdown(Some(Duration::from_secs(2)));
        });
        let acceptor = RustlsAcceptor::new(tls).handshake_timeout(HANDSHAKE_TIMEOUT);
        let acceptor = acceptor.acceptor(connections);
        let mut server = axum_server::from_tcp(listener)?
            .acceptor(acceptor)
            .handle(handle)
            .accept_error_handler(Connections::failed)
            .first_request_timeout(INACTIVITY_TIMEOUT);
        let http = server.http_builder();
        http.http1().header_read_timeout(INACTIVITY_TIMEOUT);
        http.http2()
            .keep_alive_interval(INACTIVITY_TIMEOUT)
            .max_concurrent_streams(100)
            // Larger than what the checks of a request accept, so that the client gets a problem.
            .max_header_list_size(256 * 1024);
        let server = server.serve(app.into_make_service_with_connect_info::<SocketAddr>());
        Ok(async move { server.await.context("the API stopped") })
    }

    /// Returns the routes of all roles, behind the checks that every request passes.
    fn routes(
        self,
        proxies: TrustedProxies,
        cors: &CorsOrigins,
        connections: Connections,
    ) -> Router {
        let mut routes = Router::new();
        for router in self.routers {
            routes = routes.merge(router.split_for_parts().0);
        }
        if let Some(installer) = self.installer {
            routes = routes.merge(installer.router());
        }
        if let Some(tunnel) = self.tunnel {
            routes = routes.merge(tunnel.router());
        }
        if let Some((metrics, api)) = self.metrics {
            routes = routes.merge(metrics.router(api));
        }
        if let Some(needs) = self.dependencies.filter(|_| self.limits.is_none()) {
            routes = routes.merge(health::router(needs));
        }
        routes = routes.merge(docs::router());
        routes = routes.merge(openapi::router());
        routes = match self.forward {
            Some(forward) => {
                let other = forward.clone();
                routes
                    .fallback(move |request| forward.clone().send(request))
                    .method_not_allowed_fallback(move |request| other.clone().send(request))
            }
            None => routes
                .fallback(fallback::not_found)
                .method_not_allowed_fallback(fallback::method_not_allowed),
        };
        if let Some(reader) = self.reader {
            routes = routes.layer(from_fn_with_state(reader, representation::add_resource));
        }
        let compressed = SizeAbove::new(MIN_COMPRESSED_BYTES).and(JsonAndPages);
        routes = routes
            .layer(CompressionLayer::new().compress_when(compressed))
            .layer(from_fn(conditional::mark_encoding))
            .layer(from_fn(prometheus::count));
        if let Some(limits) = self.limits {
            routes = routes.layer(from_fn_with_state(limits, limits::limit));
        }
        if let Some(cors) = cors.layer() {
            routes = routes.layer(cors);
        }
        routes
            .layer(from_fn(paths::check))
            .layer(from_fn_with_state(Arc::new(proxies), proxies::set_client_address))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .layer(from_fn(body::read_body))
            .layer(CatchPanicLayer::custom(panic_response))
            .layer(from_fn(request_id::set))
            .layer(from_fn_with_state(connections, connections::track_request))
    }
}

/// Compresses JSON and pages; streams and files are sent as they are.
#[derive(Clone, Copy)]
struct JsonAndPages;

impl Predicate for JsonAndPages {
    fn should_compress<B: HttpBody>(&self, response: &http::Response<B>) -> bool {
        let kind = response.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        kind.ends_with("json") || kind.starts_with("text/html")
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that tower-http calls")]
fn panic_response(panic: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    muster_api::Problem::internal(&std::io::Error::other(format!("a handler panicked: {text}")))
        .into_response()
}
