//! Tests of the deciders of tokens.

use std::collections::BTreeMap;

use muster_schemas::events::{
    ApiTokenCreated, ApiTokenRevoked, EnrollmentTokenCreated, EnrollmentTokenRevoked,
    EnrollmentTokenUsed, Role,
};
use muster_schemas::names::{ConfigValue, MAX_CONFIG_VARS};
use muster_schemas::{StreamVersion, Timestamp};

use super::super::api_token::{ApiToken, ApiTokenCommand};
use super::super::enrollment_token::{EnrollmentToken, EnrollmentTokenCommand, MAX_USES};
use super::*;

const NOW: Timestamp = Timestamp(10);

fn token() -> EnrollmentTokenCreated {
    EnrollmentTokenCreated {
        name: "t".parse().unwrap(),
        secret: hash(1),
        expires_at: Timestamp(20),
        uses: 1,
        labels: BTreeMap::new(),
        device: None,
        approval: false,
        config: BTreeMap::new(),
        allow_labels: Default::default(),
    }
}

fn create(token: EnrollmentTokenCreated) -> EnrollmentTokenCommand {
    EnrollmentTokenCommand::Create { token, now: NOW }
}

fn use_with(secret: u8, n: u128, now: i64) -> EnrollmentTokenCommand {
    EnrollmentTokenCommand::Use { secret: hash(secret), device: device(n), now: Timestamp(now) }
}

fn used(n: u128) -> Event {
    EnrollmentTokenUsed { device: device(n) }.into()
}

fn refused(refusal: TokenRefusal) -> Decision {
    Err(refusal.into())
}

#[test]
fn an_enrollment_token_is_created_once_within_its_limits() {
    assert_eq!(when::<EnrollmentToken>([], create(token())), Ok(vec![token().into()]));
    let decision = when::<EnrollmentToken>([token().into()], create(token()));
    assert_eq!(decision, conflict(Conflict::TokenExists));
    let rejected = |token| invalid(when::<EnrollmentToken>([], create(token))).0;
    assert_eq!(
        rejected(EnrollmentTokenCreated { expires_at: NOW, ..token() }),
        "expires_in_seconds"
    );
    for uses in [0, MAX_USES + 1] {
        assert_eq!(rejected(EnrollmentTokenCreated { uses, ..token() }), "max_uses");
    }
    let config = |count, value: ConfigValue| {
        (0..count).map(|n| (format!("v{n}").parse().unwrap(), value.clone())).collect()
    };
    let many = config(MAX_CONFIG_VARS + 1, ConfigValue::Int(1));
    assert_eq!(rejected(EnrollmentTokenCreated { config: many, ..token() }), "config");
    let invalid_value = config(1, ConfigValue::Float(f64::NAN));
    assert_eq!(rejected(EnrollmentTokenCreated { config: invalid_value, ..token() }), "config");
}

#[test]
fn an_enrollment_token_allows_its_number_of_uses_until_it_expires() {
    let created = || Event::from(token());
    let when = when::<EnrollmentToken>;
    assert_eq!(when(vec![], use_with(1, 1, 11)), refused(TokenRefusal::Unknown));
    assert_eq!(when(vec![created()], use_with(2, 1, 11)), refused(TokenRefusal::Unknown));
    assert_eq!(when(vec![created()], use_with(1, 1, 20)), refused(TokenRefusal::Expired));
    assert_eq!(when(vec![created()], use_with(1, 1, 19)), Ok(vec![used(1)]));
    let once = vec![created(), used(1)];
    assert_eq!(when(once, use_with(1, 2, 11)), refused(TokenRefusal::UsedUp));
    let twice = Event::from(EnrollmentTokenCreated { uses: 2, ..token() });
    assert_eq!(when(vec![twice, used(1)], use_with(1, 2, 11)), Ok(vec![used(2)]));
    let bound = Event::from(EnrollmentTokenCreated { device: Some(device(2)), ..token() });
    let decision = when(vec![bound.clone()], use_with(1, 1, 11));
    assert_eq!(decision, refused(TokenRefusal::OtherDevice));
    assert_eq!(when(vec![bound], use_with(1, 2, 11)), Ok(vec![used(2)]));
}

#[test]
fn a_revoked_enrollment_token_allows_nothing() {
    let created = [Event::from(token())];
    let revoked = [EnrollmentTokenRevoked {}.into()];
    let revoke = EnrollmentTokenCommand::Revoke;
    assert_eq!(when::<EnrollmentToken>([], revoke.clone()), not_found("enrollment token"));
    assert_decides_once::<EnrollmentToken>(&created, &revoke, &revoked);
    let history = [created, revoked].concat();
    let decision = when::<EnrollmentToken>(history.clone(), use_with(1, 1, 11));
    assert_eq!(decision, refused(TokenRefusal::Revoked));
    // Also to a client that knows only the two ends of the stream.
    let ends = EnrollmentToken::from_ends(&history[0], &history[1], StreamVersion(2));
    assert_eq!(ends, given::<EnrollmentToken>(history));
}

#[test]
fn an_api_token_is_created_once_and_revoked() {
    let token = |expires_at| ApiTokenCreated {
        name: "t".parse().unwrap(),
        secret: hash(1),
        role: Role::Viewer,
        expires_at,
    };
    let create = |token| ApiTokenCommand::Create { token, now: NOW };
    let when = when::<ApiToken>;
    for expires_at in [None, Some(Timestamp(11))] {
        let token = token(expires_at);
        assert_eq!(when(vec![], create(token.clone())), Ok(vec![token.into()]));
    }
    let expired = when(vec![], create(token(Some(NOW))));
    assert_eq!(invalid(expired), ("expires_in_seconds", NOW.to_string()));
    let created = [Event::from(token(None))];
    assert_eq!(when(created.to_vec(), create(token(None))), conflict(Conflict::TokenExists));
    assert_eq!(when(vec![], ApiTokenCommand::Revoke), not_found("API token"));
    let revoked = [ApiTokenRevoked {}.into()];
    assert_decides_once::<ApiToken>(&created, &ApiTokenCommand::Revoke, &revoked);
}
