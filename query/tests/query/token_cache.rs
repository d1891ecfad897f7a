//! Cached API tokens: a change by another process takes effect within a second, also when that
//! process cannot notify this one.

use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use muster_api::auth::token_uses::token_uses;
use muster_api::auth::{Authenticator, Principal};
use muster_api::problem::Kind;
use muster_eventlog::{EventLog, Follower, LogOptions};
use muster_schemas::events::{ApiTokenCreated, ApiTokenRevoked, Role};
use muster_schemas::wire::ApiTokenText;
use muster_schemas::{Hash, ProjectId, StreamName, Timestamp, TokenId};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{ExtraServers, World};

/// The second within which a change takes effect.
const LIMIT: Duration = Duration::from_secs(1);
/// Number of tokens that a client invents.
const INVENTED: usize = 100_000;

/// The log with pools of its own, as in another process.
async fn other_process(world: &World) -> EventLog {
    EventLog::open(&world.database(), LogOptions::default()).await.unwrap()
}

async fn accepts(auth: &Authenticator, token: &str) -> bool {
    match auth.authenticate(token, None).await {
        Ok(Principal { .. }) => true,
        Err(problem) => {
            assert_eq!(problem.kind(), Kind::Unauthorized);
            false
        }
    }
}

fn id(token: &str) -> TokenId {
    token.parse::<ApiTokenText>().unwrap().id
}

/// Returns the time until a token, which is in use all the time, is refused.
async fn refused_after(auth: &Authenticator, token: &str) -> Duration {
    let started_at = Instant::now();
    while accepts(auth, token).await {
        assert!(started_at.elapsed() < 5 * LIMIT, "the token is still accepted");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    started_at.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_another_process_revokes_is_refused_within_a_second() {
    let world = World::new(ExtraServers::default()).await;
    let log = other_process(&world).await;
    let stop = CancellationToken::new();
    for is_notified in [false, true] {
        let auth = Authenticator::new(log.clone());
        let token = world.token("default", Role::Viewer).await;
        for _ in 0..50 {
            assert!(accepts(&auth, &token).await);
        }
        if is_notified {
            let _ = Follower::start(&log, stop.clone());
            tokio::time::sleep(LIMIT).await;
        }
        assert!(accepts(&auth, &token).await);
        world.server(StreamName::Token(id(&token)), ApiTokenRevoked {}).await;
        let after = refused_after(&auth, &token).await;
        let limit = if is_notified { LIMIT / 2 } else { LIMIT };
        assert!(after < limit, "notified: {is_notified}, refused after {after:?}");
    }
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_same_process_revokes_is_refused_by_the_next_request() {
    let world = World::new(ExtraServers::default()).await;
    let auth = Authenticator::new(world.log.clone());
    for _ in 0..20 {
        let token = world.token("default", Role::Viewer).await;
        assert!(accepts(&auth, &token).await && accepts(&auth, &token).await);
        world.server(StreamName::Token(id(&token)), ApiTokenRevoked {}).await;
        assert!(!accepts(&auth, &token).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_token_is_refused_when_it_expires() {
    let world = World::new(ExtraServers::default()).await;
    let auth = Authenticator::new(world.log.clone());
    let secret = [7; 32];
    let (project, id) = (ProjectId::default_project(), TokenId(Uuid::now_v7()));
    let now = || Timestamp::from(SystemTime::now());
    let expires_at = Timestamp(now().micros() + 1_500_000);
    let created = ApiTokenCreated {
        name: "short".parse().unwrap(),
        secret: Hash::of(&secret),
        role: Role::Viewer,
        expires_at: Some(expires_at),
    };
    let token = ApiTokenText { project, id, secret }.to_string();
    assert!(!accepts(&auth, &token).await, "it does not exist");
    world.server(StreamName::Token(id), created).await;
    assert!(accepts(&auth, &token).await, "a refusal was cached");
    let _ = refused_after(&auth, &token).await;
    let late = now().since(expires_at);
    assert!(now() >= expires_at && late < Duration::from_millis(200), "{late:?} late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_is_stored_once() {
    let world = World::new(ExtraServers::default()).await;
    let auth = Authenticator::new(world.log.clone());
    let token = world.token("default", Role::Viewer).await;
    let mut used_at = None;
    for _ in 0..20 {
        auth.authenticate(&token, Some("192.0.2.1".into())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let uses = token_uses(&world.log).await.unwrap();
        let of_token = uses.into_iter().find(|one| one.token == id(&token));
        let found = of_token.map(|one| (one.used_at, one.address));
        assert!(
            found.is_some() && used_at.as_ref().is_none_or(|first| Some(first) == found.as_ref())
        );
        used_at = found;
    }
    assert_eq!(used_at.unwrap().1.as_deref(), Some("192.0.2.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_tokens_take_no_memory() {
    let world = World::new(ExtraServers::default()).await;
    let auth = &Authenticator::new(world.log.clone());
    let known = &world.token("default", Role::Viewer).await;
    let invent = async |count: usize| {
        futures::stream::iter(0..count)
            .for_each_concurrent(16, async |number| {
                let mut token: ApiTokenText = known.parse().unwrap();
                // Every second one has the id of a token, and another secret.
                if number % 2 == 0 {
                    token.id = TokenId(Uuid::new_v4());
                } else {
                    token.secret = *Uuid::new_v4().as_bytes().repeat(2).first_chunk().unwrap();
                }
                assert!(!accepts(auth, &token.to_string()).await);
            })
            .await;
    };
    invent(INVENTED / 10).await;
    let before = resident_bytes();
    invent(INVENTED).await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    assert!(accepts(auth, known).await);
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}
