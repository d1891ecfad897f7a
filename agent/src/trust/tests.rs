//! Tests of the trust in servers, and of its independence of the clock.

use std::time::Duration;

use muster_schemas::Hash;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::*;

struct Ca {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
    pin: Hash,
}

fn ca() -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let pin = Hash::of(&key.subject_public_key_info());
    let certificate = params.self_signed(&key).unwrap();
    Ca { certificate, issuer: Issuer::new(params, key), pin }
}

fn leaf(ca: &Ca, host: &str) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
    params.signed_by(&KeyPair::generate().unwrap(), &ca.issuer).unwrap().der().clone()
}

fn year(year: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_556_952))
}

#[test]
fn only_the_pinned_ca_for_this_host_is_trusted_regardless_of_time() {
    let (ours, theirs) = (ca(), ca());
    let der = |ca: &Ca| ca.certificate.der().clone();
    let good = leaf(&ours, "muster.example");
    let bad = leaf(&theirs, "muster.example");
    let pin = PinnedCa::Pin(ours.pin);
    let stored = PinnedCa::Certificate(der(&ours));
    let cases = [
        ("pinned", &pin, &good, vec![der(&ours)], "muster.example", true),
        ("pinned, the chain lacks the CA", &pin, &good, vec![], "muster.example", false),
        ("pinned, another CA", &pin, &bad, vec![der(&theirs)], "muster.example", false),
        (
            "pinned CA shown, signed by another",
            &pin,
            &bad,
            vec![der(&ours)],
            "muster.example",
            false,
        ),
        ("pinned, another host", &pin, &good, vec![der(&ours)], "other.example", false),
        ("stored", &stored, &good, vec![], "muster.example", true),
        ("stored, another CA", &stored, &bad, vec![der(&theirs)], "muster.example", false),
        ("stored, another host", &stored, &good, vec![], "other.example", false),
    ];
    for (name, ca, leaf, chain, host, is_good) in cases {
        for now in [year(1970), year(2026), year(2099)] {
            let verifier = Verifier::new(ca.clone());
            let host = ServerName::try_from(host).unwrap();
            let outcome = verifier.verify_server_cert(leaf, &chain, &host, &[], now);
            assert_eq!(outcome.is_ok(), is_good, "{name}: {outcome:?}");
            // The same with an indirect connection: its address is a port on the loopback.
            let by_way = Verifier::for_host(ca.clone(), &host.to_str()).unwrap();
            let near = ServerName::try_from("127.0.0.1").unwrap();
            let outcome = by_way.verify_server_cert(leaf, &chain, &near, &[], now);
            assert_eq!(outcome.is_ok(), is_good, "{name}, by way of another: {outcome:?}");
            if name.ends_with("another host") {
                let message = verifier.refusal().unwrap_or_default();
                assert!(message.contains("--name other.example"), "{name}: {message}");
            }
            if is_good {
                assert_eq!(verifier.ca(), Some(der(&ours)), "{name}");
            }
        }
    }
}
