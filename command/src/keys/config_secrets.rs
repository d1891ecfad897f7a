//! Secret config variables: encrypted before they are recorded, decrypted only for the device.
//!
//! A variable is secret if its name starts with `secret.`. The log, and so every read model, export
//! and backup, contains the ciphertext; the key is in the key folder. The value is sent to the
//! device sealed to the device's signing key, so that the broker cannot read it.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use data_encoding::BASE64URL_NOPAD;
use muster_channel::{SealedError, seal_to};
use muster_schemas::names::{ConfigKey, ConfigValue, ConfigVars};
use muster_schemas::wire::config_context;
use muster_schemas::{ConfigVersion, DeviceId, ProjectId, PublicKey, codec};

use super::store::KeyStore;

/// Prefix of the names of secret variables.
const SECRET_PREFIX: &str = "secret.";
/// Prefix of an encrypted value; base64url follows: nonce, ciphertext, tag.
const SEALED_PREFIX: &str = "sealed:v1:";
/// Maximum size of a secret value, in bytes: encrypted, it fits a config variable.
const MAX_SECRET_BYTES: usize = 3000;

/// A value is not accepted for a secret variable.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SecretError {
    /// The value is too long.
    #[error("is longer than {MAX_SECRET_BYTES} bytes")]
    TooLong,
    /// The value has the prefix of an encrypted one.
    #[error(
        "starts with '{SEALED_PREFIX}', like a value that the server has sealed; send the plain value"
    )]
    Sealed,
    /// The key is unusable.
    #[error("cannot be sealed")]
    Key,
}

/// Config variables as they are sent to a device.
#[derive(Debug)]
pub(crate) struct OutgoingConfig {
    /// Variables that are not secret.
    pub(crate) plain: ConfigVars,
    /// Secret ones, sealed to the device; `None` if there are none.
    pub(crate) sealed: Option<Vec<u8>>,
}

fn is_secret(name: &ConfigKey) -> bool {
    name.as_str().starts_with(SECRET_PREFIX)
}

impl KeyStore {
    /// Returns the value to record: a secret variable's value is encrypted.
    pub(crate) fn seal_config(
        &self,
        project: &ProjectId,
        name: &ConfigKey,
        value: ConfigValue,
    ) -> Result<ConfigValue, SecretError> {
        if matches!(&value, ConfigValue::Text(text) if text.starts_with(SEALED_PREFIX)) {
            return Err(SecretError::Sealed);
        }
        if !is_secret(name) {
            return Ok(value);
        }
        let mut bytes = codec::encode(&value);
        // The encoding adds up to 3 bytes for type and length.
        if bytes.len() > MAX_SECRET_BYTES + 3 {
            return Err(SecretError::TooLong);
        }
        let nonce: [u8; NONCE_LEN] = rand::random();
        let key = self.config_key().ok_or(SecretError::Key)?;
        let sealed = key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(associated_data(project, name)),
            &mut bytes,
        );
        sealed.map_err(|_| SecretError::Key)?;
        let whole = [&nonce[..], &bytes].concat();
        Ok(ConfigValue::Text(format!("{SEALED_PREFIX}{}", BASE64URL_NOPAD.encode(&whole))))
    }

    /// Returns the variables as they are sent to the device that has this key. A secret variable
    /// that cannot be decrypted is left out.
    ///
    /// # Errors
    /// When secret variables cannot be sealed to this key.
    pub(crate) fn config_for_device(
        &self,
        project: &ProjectId,
        device: DeviceId,
        version: ConfigVersion,
        vars: ConfigVars,
        key: &PublicKey,
    ) -> Result<OutgoingConfig, SealedError> {
        let (secret, plain): (ConfigVars, ConfigVars) =
            self.open_config(project, vars).into_iter().partition(|(name, _)| is_secret(name));
        let sealed = if secret.is_empty() {
            None
        } else {
            let context = config_context(project, device, version);
            Some(seal_to(key, &context, &codec::encode(&secret))?)
        };
        Ok(OutgoingConfig { plain, sealed })
    }

    /// Returns the variables, decrypted. A variable that cannot be decrypted is left out.
    fn open_config(&self, project: &ProjectId, vars: ConfigVars) -> ConfigVars {
        let open = |(name, value): (ConfigKey, ConfigValue)| {
            let ConfigValue::Text(text) = &value else { return Some((name, value)) };
            // Values that were set before names made variables secret are not encrypted.
            let Some(sealed) = text.strip_prefix(SEALED_PREFIX).filter(|_| is_secret(&name)) else {
                return Some((name, value));
            };
            let opened = self.open_value(project, &name, sealed);
            if opened.is_none() {
                tracing::error!(
                    %project, %name,
                    "failed to decrypt a secret config variable; was config-secrets.key replaced? \
                     Set the variable again"
                );
            }
            opened.map(|value| (name, value))
        };
        vars.into_iter().filter_map(open).collect()
    }

    fn open_value(
        &self,
        project: &ProjectId,
        name: &ConfigKey,
        sealed: &str,
    ) -> Option<ConfigValue> {
        let whole = BASE64URL_NOPAD.decode(sealed.as_bytes()).ok()?;
        let (nonce, sealed) = whole.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = sealed.to_vec();
        let aad = Aad::from(associated_data(project, name));
        let plain = self.config_key()?.open_in_place(nonce, aad, &mut bytes).ok()?;
        codec::decode(plain).ok()
    }

    fn config_key(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&CHACHA20_POLY1305, &self.config_key).ok().map(LessSafeKey::new)
    }
}

/// Returns the associated data: a value decrypts only with its own name and in its own project.
fn associated_data(project: &ProjectId, name: &ConfigKey) -> Vec<u8> {
    [b"muster/config-secret/v1", project.as_str().as_bytes(), b"/", name.as_str().as_bytes()]
        .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_in_its_own_project_and_variable() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyStore::open(dir.path()).unwrap();
        let project: ProjectId = "default".parse().unwrap();
        let name: ConfigKey = "secret.db".parse().unwrap();
        for value in [ConfigValue::Text("hunter2".into()), ConfigValue::Int(4711)] {
            let sealed = keys.seal_config(&project, &name, value.clone()).unwrap();
            assert!(matches!(&sealed, ConfigValue::Text(text) if text.starts_with(SEALED_PREFIX)));
            assert!(sealed.check().is_ok());
            let open = |keys: &KeyStore, project: &ProjectId, name: &ConfigKey| {
                let vars = ConfigVars::from([(name.clone(), sealed.clone())]);
                keys.open_config(project, vars).remove(name)
            };
            assert_eq!(open(&keys, &project, &name), Some(value));
            assert_eq!(open(&keys, &"other".parse().unwrap(), &name), None);
            assert_eq!(open(&keys, &project, &"secret.other".parse().unwrap()), None);
            let others = KeyStore::open(&dir.path().join("others")).unwrap();
            assert_eq!(open(&others, &project, &name), None);
        }
        let plain: ConfigKey = "metrics.interval".parse().unwrap();
        let value = ConfigValue::Int(5);
        assert_eq!(keys.seal_config(&project, &plain, value.clone()), Ok(value));
        let text = |length| ConfigValue::Text("x".repeat(length));
        let longest = keys.seal_config(&project, &name, text(MAX_SECRET_BYTES)).unwrap();
        assert!(longest.check().is_ok());
        assert_eq!(
            keys.seal_config(&project, &name, text(MAX_SECRET_BYTES + 1)),
            Err(SecretError::TooLong)
        );
        assert_eq!(keys.seal_config(&project, &name, longest), Err(SecretError::Sealed));
    }
}
