//! Who asks, and what they may do: bearer tokens, roles, projects.
//!
//! Tokens are streams of the event log like all else; nothing here writes, but for the note that a
//! token was used. Slowing down those who guess is not done here: a secret is 256 random bits.

mod authenticator;
mod extract;
mod token;
mod watch;

use muster_schemas::events::Role;
use muster_schemas::{ProjectId, TokenId};

pub use authenticator::Authenticator;
pub use extract::{Allowed, Scope};
pub use token::{ApiTokenState, Refusal};
pub use watch::end_with_token;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The token that was shown.
    pub token: TokenId,
    /// What its bearer may do.
    pub role: Role,
    /// The project that it is for; `None` for a server-wide token.
    pub project: Option<ProjectId>,
}

impl Principal {
    /// How events name it.
    #[must_use]
    pub fn actor(&self) -> String {
        format!("token:{}", self.token)
    }

    /// May it do this?
    #[must_use]
    pub fn may(&self, permission: Permission) -> bool {
        permission.roles().contains(&self.role)
    }
}

/// What an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Read the state and the events of devices, and their metrics.
    ReadDevices,
    /// Change devices.
    WriteDevices,
    /// Ask something of devices: run programs on them, and end those.
    RunOperations,
    /// Read what programs wrote on devices.
    ReadOutput,
    /// Read enrollment tokens: those who make them, and those who read all.
    ReadEnrollmentTokens,
    /// Read all: tokens, dead letters, every event.
    ReadAll,
    /// Change all: tokens, server settings.
    Administer,
}

impl Permission {
    /// The roles that have it.
    #[must_use]
    pub const fn roles(self) -> &'static [Role] {
        match self {
            Self::ReadDevices => &[Role::Viewer, Role::Operator, Role::Admin, Role::Auditor],
            Self::WriteDevices | Self::RunOperations => &[Role::Operator, Role::Admin],
            Self::ReadOutput => &[Role::Operator, Role::Admin, Role::Auditor],
            Self::ReadEnrollmentTokens => &[Role::Operator, Role::Admin, Role::Auditor],
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
    /// Needs [`Permission::ReadDevices`].
    ReadDevices,
    /// Needs [`Permission::WriteDevices`].
    WriteDevices,
    /// Needs [`Permission::RunOperations`].
    RunOperations,
    /// Needs [`Permission::ReadOutput`].
    ReadOutput,
    /// Needs [`Permission::ReadEnrollmentTokens`].
    ReadEnrollmentTokens,
    /// Needs [`Permission::ReadAll`].
    ReadAll,
    /// Needs [`Permission::Administer`].
    Administer,
}
