//! Users of InfluxDB 1.x. 2.x and 3.x use tokens, which an administrator creates there.

use async_recursion::async_recursion as boxed;

use crate::client::InfluxClient;
use crate::error::StoreError;
use crate::quoting::{identifier, string};
use crate::settings::Credentials;

impl InfluxClient {
    /// Creates the administrator with the user and the password of the settings, unless they are
    /// already valid. A store with authentication but without users allows any client to create the
    /// first one. Does nothing without a user.
    ///
    /// # Errors
    /// [`StoreError::Denied`] when the store has an administrator with another password; other
    /// errors when it refuses, or is unavailable.
    #[boxed]
    pub async fn create_administrator(&self) -> Result<(), StoreError> {
        let Credentials::Password { user, password } = &self.settings().credentials else {
            return Ok(());
        };
        match self.execute("SHOW DATABASES").await {
            Ok(()) => return Ok(()),
            Err(error @ StoreError::Unreachable { .. }) => return Err(error),
            Err(_) => {}
        }
        let (user, password) = (identifier(user), string(password));
        let statement = format!("CREATE USER {user} WITH PASSWORD {password} WITH ALL PRIVILEGES");
        self.execute_anonymously(&statement).await
    }

    /// Creates a user with this password, or sets the password of an existing user, and grants it
    /// read access to the database.
    ///
    /// # Errors
    /// When the store refuses, or is unavailable.
    #[boxed]
    pub async fn grant_read(&self, user: &str, password: &str) -> Result<(), StoreError> {
        let (user, password) = (identifier(user), string(password));
        // The first statement creates the user, the second one updates an existing user.
        match self.execute(&format!("CREATE USER {user} WITH PASSWORD {password}")).await {
            Ok(()) => {}
            Err(error @ StoreError::Unreachable { .. }) => return Err(error),
            Err(_) => self.execute(&format!("SET PASSWORD FOR {user} = {password}")).await?,
        }
        let database = identifier(&self.settings().database);
        self.execute(&format!("GRANT READ ON {database} TO {user}")).await
    }
}
