//! The fold of a token: its state, and that it has no secret.

use muster_eventlog::StoredEvent;
use muster_schemas::events::{
    ApiTokenCreated, ApiTokenRevoked, ApiTokenUsed, EnrollmentTokenCreated, EnrollmentTokenUsed,
    Role,
};
use muster_schemas::{
    DeviceId, Event, Hash, Position, StreamName, StreamVersion, Timestamp, TokenId,
};
use uuid::Uuid;

use super::{Token, TokenKind};

fn fold(events: &[Event]) -> Token {
    let mut token = Token::default();
    for (event, position) in events.iter().zip(1_u32..) {
        let stored = StoredEvent {
            position: Position(position.into()),
            stream: StreamName::Token(TokenId(Uuid::nil())),
            stream_version: StreamVersion(position.into()),
            kind: event.kind().to_owned(),
            schema_version: event.version(),
            occurred_at: Timestamp(0),
            recorded_at: Timestamp(position.into()),
            actor: "token:x".into(),
            correlation: None,
            causation: None,
            record: event.encode().into(),
            salt: vec![0; 32].into(),
            authority: None,
        };
        token.evolve(&stored).unwrap();
    }
    token
}

#[test]
fn tokens_include_their_use_and_never_their_secret() {
    let secret = Hash::of(b"secret");
    let api = fold(&[
        ApiTokenCreated {
            name: "ci".parse().unwrap(),
            secret,
            role: Role::Viewer,
            expires_at: None,
        }
        .into(),
        ApiTokenUsed { address: Some("10.0.0.9".into()) }.into(),
        ApiTokenRevoked {}.into(),
    ]);
    assert_eq!(api.kind, Some(TokenKind::Api { role: Role::Viewer }));
    assert_eq!((api.used, api.version), (1, StreamVersion(3)));
    assert_eq!(api.last_used_at, Some(Timestamp(2)));
    assert_eq!(api.revoked_at, Some(Timestamp(3)));

    let enrollment = fold(&[
        EnrollmentTokenCreated {
            name: "hall 2".parse().unwrap(),
            secret,
            expires_at: Timestamp(9),
            uses: 2,
            labels: [("site".parse().unwrap(), "hall-2".parse().unwrap())].into(),
            device: None,
            approval: false,
            config: Default::default(),
            allow_labels: Default::default(),
        }
        .into(),
        EnrollmentTokenUsed { device: DeviceId(Uuid::nil()) }.into(),
    ]);
    assert_eq!(enrollment.used, 1);
    for token in [api, enrollment] {
        let text = serde_json::to_string(&token).unwrap();
        assert!(!text.contains(&secret.to_string()), "{text}");
        assert_eq!(serde_json::from_str::<Token>(&text).unwrap(), token);
    }
}

/// The list also decides which events only some roles may read.
#[test]
fn every_event_about_a_token_is_listed() {
    let mut about_tokens: Vec<&str> =
        Event::TYPES.iter().map(|(kind, _)| *kind).filter(|kind| kind.contains("Token")).collect();
    let mut listed = super::table::TYPES.to_vec();
    about_tokens.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, about_tokens);
}
