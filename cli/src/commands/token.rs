//! `muster token`: enrollment tokens.

use anyhow::Result;
use clap::{Args, Subcommand};
use muster_api_types::WriteResult;
use muster_api_types::tokens::{CreateEnrollmentToken, EnrollmentToken, TokenCreated};
use muster_client::{Client, segment};
use muster_schemas::units::parse_seconds;

use super::confirm::Confirm;
use super::target::Target;
use super::{changes, config_changes, items, values};
use crate::connection::Connection;
use crate::output::{self, facts, line, note, optional, pairs, table, text};

const TOKENS: &str = "/api/v1/enrollment-tokens";

#[derive(Subcommand, Debug)]
pub(crate) enum TokenCommand {
    /// Create an enrollment token; it is printed only once
    Create(CreateArgs),
    /// List enrollment tokens
    List,
    /// Show an enrollment token
    Show {
        /// Id of the token
        id: String,
    },
    /// Revoke an enrollment token; enrolled devices are not affected
    Revoke {
        /// Id of the token
        id: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

/// Properties of a new enrollment token.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Name of the token
    #[arg(long, default_value = "from the command line")]
    name: String,
    /// Lifetime of the token: 90s, 10m, 2h, 7d
    #[arg(long, default_value = "1h", value_parser = parse_seconds)]
    ttl: u32,
    /// Maximum number of devices that can enroll with it
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// Labels of the enrolled devices: key=value
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Keys of labels that a machine may set itself, such as env,site
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    allow_labels: Vec<String>,
    /// Initial config variables, as for `muster device config`: key=value, secret.KEY=@FILE
    #[arg(long = "config", value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Only device (name or id) that can enroll; an enrolled one gets new keys
    #[arg(long, visible_alias = "replace")]
    device: Option<String>,
    /// Print only the token instead of the installation command
    #[arg(long)]
    token_only: bool,
    /// Require `muster device accept` for each device
    #[arg(long)]
    approval: bool,
}

pub(crate) async fn run(connection: Connection, command: TokenCommand) -> Result<()> {
    let json = connection.json;
    let client = connection.client()?;
    match command {
        TokenCommand::Create(args) => create(&client, args, json).await,
        TokenCommand::List => list(&client, json).await,
        TokenCommand::Show { id } => show(&client, &id, json).await,
        TokenCommand::Revoke { id, confirm } => revoke(&client, &id, confirm, json).await,
    }
}

async fn create(client: &Client, args: CreateArgs, json: bool) -> Result<()> {
    let device = match args.device {
        Some(device) => Some(Target::read(device).only_id(client).await?),
        None => None,
    };
    let body = CreateEnrollmentToken {
        name: args.name.parse()?,
        expires_in_seconds: args.ttl,
        max_uses: args.uses,
        labels: values(changes(&args.labels, |text| Ok(text.parse()?))?)?,
        allowed_labels: args
            .allow_labels
            .iter()
            .map(|key| key.parse())
            .collect::<Result<_, _>>()?,
        config: values(config_changes(&args.config)?)?,
        device,
        approval_required: args.approval,
    };
    let created = client.post::<TokenCreated>(TOKENS, &body).await?;
    client.wait_until_listed(TOKENS, created.result.position).await;
    if json {
        return output::json(&created);
    }
    let (id, end) = (created.id, optional(created.expires_at));
    note(format!("id {id}, valid until {end}; run on each machine that joins:"));
    let token = text(&created.secret);
    line(if args.token_only {
        token
    } else {
        let (url, pin) = (client.url(), optional(created.server_pin.as_ref()));
        format!(
            "curl -fsSk --pinnedpubkey '{pin}' {url}/install.sh | \
             MUSTER_ENROLL_TOKEN={token} sudo --preserve-env=MUSTER_ENROLL_TOKEN sh -s --"
        )
    });
    Ok(())
}

async fn list(client: &Client, json: bool) -> Result<()> {
    let tokens = items::<EnrollmentToken>(client, TOKENS, &[], json).await?;
    if json {
        return output::json(&tokens);
    }
    let rows = tokens
        .iter()
        .map(|token| {
            vec![
                text(token.id),
                optional(token.name.as_ref()),
                text(&token.status),
                format!("{}/{}", token.use_count, token.max_uses),
                optional(token.expires_at),
                pairs(&token.labels),
            ]
        })
        .collect();
    let header = ["id", "name", "status", "used", "expires", "labels"];
    table(&header, rows, "no enrollment tokens; `muster token create` creates one");
    Ok(())
}

async fn show(client: &Client, id: &str, json: bool) -> Result<()> {
    let path = format!("{TOKENS}/{}", segment(id));
    let token = client.get::<EnrollmentToken>(&path, &[]).await?;
    if json {
        return output::json(&token);
    }
    facts(&[
        ("id", text(token.id)),
        ("name", optional(token.name.as_ref())),
        ("status", text(&token.status)),
        ("used", format!("{} of {}", token.use_count, token.max_uses)),
        ("last_used_at", optional(token.last_used_at)),
        ("created_by", text(&token.created_by)),
        ("created_at", text(token.created_at)),
        ("expires_at", optional(token.expires_at)),
        ("revoked_at", optional(token.revoked_at)),
        ("labels", pairs(&token.labels)),
        ("device", optional(token.device.as_ref())),
    ]);
    Ok(())
}

async fn revoke(client: &Client, id: &str, confirm: Confirm, json: bool) -> Result<()> {
    confirm.confirm_one("revoke", "enrollment token", id)?;
    let done = client.delete::<WriteResult>(&format!("{TOKENS}/{}", segment(id))).await?;
    client.wait_until_listed(TOKENS, done.position).await;
    if json {
        return output::json(&done);
    }
    line(format!("revoked {id}"));
    Ok(())
}
