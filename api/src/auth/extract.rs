//! The extractors: the principal of a request ([`Allowed`]), and its project ([`Scope`]).

use std::marker::PhantomData;
use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRef, FromRequestParts};
use axum::http::header;
use axum::http::request::Parts;
use muster_schemas::ProjectId;

use super::watch::Credential;
use super::{Needs, Permission, Principal};
use crate::problem::{Kind, Problem};
use crate::{ApiState, params};

/// A principal with the permission `P`, in any project.
#[derive(Clone, Debug)]
pub struct Allowed<P> {
    /// The principal.
    pub principal: Principal,
    permission: PhantomData<P>,
}

/// A principal with the permission `P` and a server-wide token.
#[derive(Clone, Debug)]
pub struct ServerWide<P> {
    /// The principal.
    pub principal: Principal,
    permission: PhantomData<P>,
}

/// A principal with the permission `P` in a project.
#[derive(Clone, Debug)]
pub struct Scope<P> {
    /// The principal.
    pub principal: Principal,
    /// The project.
    pub project: ProjectId,
    permission: PhantomData<P>,
}

impl<P: Needs, S> FromRequestParts<S> for Allowed<P>
where
    S: Send + Sync,
    ApiState: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let principal = authenticate(parts, &ApiState::from_ref(state)).await?;
        check_permission(&principal, P::PERMISSION)?;
        Ok(Self { principal, permission: PhantomData })
    }
}

impl<P: Needs, S> FromRequestParts<S> for ServerWide<P>
where
    S: Send + Sync,
    ApiState: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Allowed { principal, permission } =
            Allowed::<P>::from_request_parts(parts, state).await?;
        principal.require_server_wide()?;
        Ok(Self { principal, permission })
    }
}

impl<P: Needs, S> FromRequestParts<S> for Scope<P>
where
    S: Send + Sync,
    ApiState: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let api = ApiState::from_ref(state);
        let principal = authenticate(parts, &api).await?;
        check_permission(&principal, P::PERMISSION)?;
        let project = project_of(parts, &principal, &api).await?;
        check_project_permission(&project, P::PERMISSION)?;
        Ok(Self { principal, project, permission: PhantomData })
    }
}

/// Authenticates the bearer of the request's token. A principal that a middleware has already found
/// is not looked up again.
async fn authenticate(parts: &mut Parts, api: &ApiState) -> Result<Principal, Problem> {
    if let Some(principal) = parts.extensions.get::<Principal>() {
        return Ok(principal.clone());
    }
    let address = parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(address)| address.ip().to_string());
    let text = bearer(parts)?.to_owned();
    let principal = api.auth.authenticate(&text, address).await?;
    if let Some(credential) = parts.extensions.get::<Credential>() {
        credential.set(text, principal.clone());
    }
    parts.extensions.insert(principal.clone());
    Ok(principal)
}

fn bearer(parts: &Parts) -> Result<&str, Problem> {
    let missing = || {
        Problem::new(
            Kind::Unauthorized,
            "the request has no token; send the header Authorization: Bearer mst_…",
        )
    };
    // A browser's websocket cannot set any header except the names of subprotocols.
    let protocols = parts.headers.get(header::SEC_WEBSOCKET_PROTOCOL);
    let named = protocols
        .and_then(|value| value.to_str().ok())
        .and_then(|names| names.split(',').map(str::trim).find(|name| name.starts_with("mst_")));
    if let (Some(token), None) = (named, parts.headers.get(header::AUTHORIZATION)) {
        return Ok(token);
    }
    let value = parts.headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
    let (scheme, token) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(missing()) }
}

fn check_permission(principal: &Principal, permission: Permission) -> Result<(), Problem> {
    if principal.has_permission(permission) {
        return Ok(());
    }
    let roles: Vec<&str> = permission.roles().iter().map(|role| role.as_str()).collect();
    Err(Problem::new(
        Kind::Forbidden,
        format!("the token's role is {}; this requires {}", principal.role, roles.join(" or ")),
    ))
}

/// Refuses changes to devices and operations in the project `system`: it holds only projects and
/// server-wide tokens.
fn check_project_permission(project: &ProjectId, permission: Permission) -> Result<(), Problem> {
    let is_about_devices = match permission {
        Permission::WriteDevices | Permission::RunOperations => true,
        Permission::ReadDevices
        | Permission::ReadOutput
        | Permission::ReadEnrollmentTokens
        | Permission::ReadAll
        | Permission::Administer => false,
    };
    if project.is_system() && is_about_devices {
        let rule = "must not be system: it has no devices and no enrollment tokens";
        return Err(Problem::parameter("project", rule, Some(project.as_str().into())));
    }
    Ok(())
}

async fn project_of(
    parts: &Parts,
    principal: &Principal,
    api: &ApiState,
) -> Result<ProjectId, Problem> {
    let named = params::pairs(parts.uri.query().unwrap_or_default())?
        .into_iter()
        .find_map(|(name, value)| (name == "project").then_some(value));
    let requested = named
        .map(|name| {
            name.parse::<ProjectId>().map_err(|error| {
                Problem::parameter("project", error.to_string(), Some(name.into()))
            })
        })
        .transpose()?;
    match (&principal.project, requested) {
        (Some(own), None) => Ok(own.clone()),
        (Some(own), Some(requested)) if *own == requested => Ok(requested),
        (Some(own), Some(requested)) => Err(Problem::new(
            Kind::Forbidden,
            format!("the token is for project {own}, not for {requested}"),
        )),
        (None, requested) => {
            let project = requested.unwrap_or_else(ProjectId::default_project);
            if api.auth.project_exists(&project).await? {
                Ok(project)
            } else {
                Err(Problem::not_found(format!("there is no project '{project}'")))
            }
        }
    }
}
