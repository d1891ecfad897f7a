//! Authentication and authorization: bearer tokens, roles, projects.
//!
//! Tokens are streams of the event log. Nothing here writes, except for the record that a token was
//! used. There is no rate limit for guesses: a secret has 256 random bits.

mod authenticator;
mod extract;
mod token;
pub mod token_uses;
mod watch;

use muster_schemas::events::Role;
use muster_schemas::{ProjectId, TokenId};

use crate::problem::{Kind, Problem};

pub use authenticator::Authenticator;
pub use extract::{Allowed, Scope, ServerWide};
pub use token::{ApiTokenState, Refusal};
pub use watch::end_with_token;

/// The authenticated client of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The token of the request.
    pub token: TokenId,
    /// The role of the token.
    pub role: Role,
    /// The project of the token; `None` for a server-wide token.
    pub project: Option<ProjectId>,
}

impl Principal {
    /// Returns the actor that events name.
    #[must_use]
    pub fn actor(&self) -> String {
        format!("token:{}", self.token)
    }

    /// Whether the principal has this permission.
    #[must_use]
    pub fn has_permission(&self, permission: Permission) -> bool {
        permission.roles().contains(&self.role)
    }

    /// Requires a server-wide token.
    ///
    /// # Errors
    /// When the token is for one project.
    pub fn require_server_wide(&self) -> Result<(), Problem> {
        let Some(project) = &self.project else { return Ok(()) };
        let detail =
            format!("the token is for project {project} only; this requires a server-wide token");
        Err(Problem::new(Kind::Forbidden, detail))
    }
}

/// The permission that an operation of the API requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Read the state, events and metrics of devices.
    ReadDevices,
    /// Change devices.
    WriteDevices,
    /// Request operations on devices (run programs), and end them.
    RunOperations,
    /// Read the output of programs.
    ReadOutput,
    /// Read enrollment tokens: for the roles that create them, and those that read everything.
    ReadEnrollmentTokens,
    /// Read everything: tokens, dead letters, every event.
    ReadAll,
    /// Change everything: tokens, server settings.
    Administer,
}

impl Permission {
    /// Returns the roles that have this permission.
    #[must_use]
    pub const fn roles(self) -> &'static [Role] {
        match self {
            Self::ReadDevices => &[Role::Viewer, Role::Operator, Role::Admin, Role::Auditor],
            Self::WriteDevices | Self::RunOperations => &[Role::Operator, Role::Admin],
            Self::ReadOutput | Self::ReadEnrollmentTokens => {
                &[Role::Operator, Role::Admin, Role::Auditor]
            }
            Self::ReadAll => &[Role::Admin, Role::Auditor],
            Self::Administer => &[Role::Admin],
        }
    }
}

/// A permission as a type, for extractors: `Scope<WriteDevices>`.
pub trait Needs: Send + Sync + 'static {
    /// The permission.
    const PERMISSION: Permission;
}

macro_rules! needs {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;
        impl Needs for $name {
            const PERMISSION: Permission = Permission::$name;
        }
    )+};
}

needs! {
    /// Requires [`Permission::ReadDevices`].
    ReadDevices,
    /// Requires [`Permission::WriteDevices`].
    WriteDevices,
    /// Requires [`Permission::RunOperations`].
    RunOperations,
    /// Requires [`Permission::ReadOutput`].
    ReadOutput,
    /// Requires [`Permission::ReadEnrollmentTokens`].
    ReadEnrollmentTokens,
    /// Requires [`Permission::ReadAll`].
    ReadAll,
    /// Requires [`Permission::Administer`].
    Administer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_the_roles_of_each_permission() {
        let documented = include_str!("../../../docs/api.md");
        for (permission, start) in [
            (Permission::ReadDevices, "| read devices, metrics"),
            (Permission::ReadOutput, "| read the output of programs"),
            (Permission::ReadEnrollmentTokens, "| read enrollment tokens"),
            (Permission::ReadAll, "| read API tokens"),
            (Permission::WriteDevices, "| change devices"),
            (Permission::RunOperations, "| request operations"),
            (Permission::Administer, "| create and revoke API tokens"),
        ] {
            let row = documented.lines().find(|line| line.starts_with(start)).unwrap();
            let cells: Vec<bool> =
                row.split('|').skip(2).take(4).map(|cell| cell.trim() == "✓").collect();
            let roles = [Role::Viewer, Role::Auditor, Role::Operator, Role::Admin];
            let expected = roles.map(|role| permission.roles().contains(&role));
            assert_eq!(cells, expected, "{row}");
        }
    }
}
