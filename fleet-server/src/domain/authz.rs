//! Who may do what: one pure function. Tokens carry roles from the first day.

use std::fmt;
use std::str::FromStr;

use flotilla_protocol::ids::ApiTokenId;

/// What a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Viewer,
    Labeler,
    Operator,
    ReleaseSigner,
    Auditor,
    Admin,
}

impl Role {
    pub const ALL: [Self; 6] = [
        Self::Viewer,
        Self::Labeler,
        Self::Operator,
        Self::ReleaseSigner,
        Self::Auditor,
        Self::Admin,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Labeler => "labeler",
            Self::Operator => "operator",
            Self::ReleaseSigner => "release-signer",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no role: viewer, labeler, operator, release-signer, auditor or admin")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| UnknownRole(text.chars().take(40).collect()))
    }
}

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// As audit entries name it: `token:admin`.
    pub actor: String,
    pub roles: Vec<Role>,
}

/// Whom a session or a sign-in link stands for. Roles are looked up anew at every request, so that what is revoked is
/// revoked at once. Users and identities of other providers become further variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalRef {
    /// The holder of an API token.
    ApiToken(ApiTokenId),
}

impl PrincipalRef {
    /// As it is stored: the kind, and the id within it.
    pub fn parts(&self) -> (&'static str, String) {
        match self {
            Self::ApiToken(id) => ("api-token", id.to_string()),
        }
    }

    pub fn from_parts(kind: &str, id: &str) -> Option<Self> {
        match kind {
            "api-token" => id.parse().ok().map(Self::ApiToken),
            _ => None,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Devices, datasets, runs, models, rollouts, drift: reading.
    Read,
    /// The audit log.
    ReadAudit,
    /// Annotations.
    Label,
    /// Datasets, labeling functions, versions, runs, packages.
    Build,
    /// Signatures.
    Sign,
    /// Claim tokens, devices, rollouts.
    Operate,
    /// Sign-in links, sessions.
    Administer,
}

impl Action {
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::ReadAudit,
        Self::Label,
        Self::Build,
        Self::Sign,
        Self::Operate,
        Self::Administer,
    ];

    /// As capabilities name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ReadAudit => "read-audit",
            Self::Label => "label",
            Self::Build => "build",
            Self::Sign => "sign",
            Self::Operate => "operate",
            Self::Administer => "administer",
        }
    }

    /// Completes "may not …".
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Read => "read the fleet's resources",
            Self::ReadAudit => "read the audit log",
            Self::Label => "label samples",
            Self::Build => "change datasets, runs or models",
            Self::Sign => "add signatures",
            Self::Operate => "change devices, claim tokens or rollouts",
            Self::Administer => "make sign-in links or look at sessions",
        }
    }
}

/// May this principal do that?
pub fn authorize(principal: &Principal, action: Action) -> bool {
    principal.roles.iter().any(|role| match role {
        Role::Admin => true,
        Role::Viewer => action == Action::Read,
        Role::Labeler => matches!(action, Action::Read | Action::Label),
        Role::Operator => matches!(action, Action::Read | Action::Label | Action::Build | Action::Operate),
        Role::ReleaseSigner => matches!(action, Action::Read | Action::Sign),
        Role::Auditor => matches!(action, Action::Read | Action::ReadAudit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix() {
        let heads: Vec<_> = Action::ALL.iter().map(|action| format!("{action:?}")).collect();
        let mut table = vec![format!("{:<16} {}", "role", heads.join(" "))];
        for role in Role::ALL {
            let principal = Principal {
                actor: "t".into(),
                roles: vec![role],
            };
            let may = |action: &Action| if authorize(&principal, *action) { "yes" } else { "-" };
            let row: Vec<_> = Action::ALL.iter().map(may).collect();
            table.push(format!("{role:<16} {}", row.join(" ")));
        }
        let table = table.join("\n");
        insta::assert_snapshot!(table, @r"
        role             Read ReadAudit Label Build Sign Operate Administer
        viewer           yes - - - - - -
        labeler          yes - yes - - - -
        operator         yes - yes yes - yes -
        release-signer   yes - - - yes - -
        auditor          yes yes - - - - -
        admin            yes yes yes yes yes yes yes
        ");
        let nobody = Principal {
            actor: "t".into(),
            roles: vec![],
        };
        assert!(Action::ALL.iter().all(|action| !authorize(&nobody, *action)));
    }
}
