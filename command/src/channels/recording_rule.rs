//! The rule which shells must be recorded.

use muster_schemas::events::Role;

/// Whose shells must be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recording {
    /// Those of operators; an admin may open an unrecorded shell.
    #[default]
    Operators,
    /// All shells.
    Everyone,
}

impl Recording {
    /// Whether shells of this role must be recorded.
    pub(crate) fn is_required_for(self, role: Role) -> bool {
        self == Self::Everyone || role != Role::Admin
    }
}
