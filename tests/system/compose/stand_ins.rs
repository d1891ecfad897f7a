//! Substitutes for the images that docker-compose.yml pins, built from the programs of this
//! machine: its nats-server and PostgreSQL; InfluxDB 1.x instead of InfluxDB 2, which is not
//! available to tests; instead of Grafana a server that responds to its health check.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_backing::find::SearchPath;

use super::engine::Engine;

/// Entry point like that of the PostgreSQL image at its first start.
const POSTGRES: &str = r#"#!/bin/sh
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" \
        --auth-local=trust --auth-host=scram-sha-256 -D "$PGDATA" >/dev/null
    printf "listen_addresses = '*'\nunix_socket_directories = '/var/run/postgresql'\n" \
        >>"$PGDATA/postgresql.conf"
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start >/dev/null
    createdb -h /var/run/postgresql -U "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -D "$PGDATA" -m fast -w stop >/dev/null
fi
exec "$@"
"#;

/// InfluxDB 1.x with its data in the path that the file has for 2.x.
const INFLUXD: &str = r#"#!/bin/sh
data=$(dirname "$INFLUXD_BOLT_PATH")
export INFLUXDB_DATA_DIR=$data/data INFLUXDB_META_DIR=$data/meta INFLUXDB_DATA_WAL_DIR=$data/wal
export INFLUXDB_REPORTING_DISABLED=true
exec influxd-1
"#;

/// `influx ping --host URL`.
const INFLUX: &str = r#"#!/bin/sh
[ "$1 $2" = "ping --host" ] && exec wget -q -O /dev/null "$3/ping"
exit 2
"#;

/// Responds to every request on Grafana's port.
const GRAFANA: &str = r#"#!/usr/bin/perl
use IO::Socket::INET;
my $listener = IO::Socket::INET->new(LocalAddr => '0.0.0.0', LocalPort => 3000, Listen => 16) or die $!;
while (my $client = $listener->accept) {
    1 while defined($_ = <$client>) && /\S/;
    print $client "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    close $client;
}
"#;

/// Files of an image, in addition to the base.
struct Root(PathBuf);

impl Root {
    /// Adds a program as `/usr/local/bin/NAME`, with its libraries under their own paths.
    fn program(&self, program: &Path, name: &str) {
        self.libraries(program);
        self.copy(program, Path::new("/usr/local/bin").join(name).as_path());
    }

    /// Adds a program under its own path.
    fn here(&self, program: &Path) {
        self.libraries(program);
        self.copy(program, program);
    }

    fn libraries(&self, program: &Path) {
        let listed = Command::new("ldd").arg(program).output().unwrap();
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
        for library in libraries.map(Path::new) {
            // `/lib` is a link on the base: its files are in `/usr/lib`.
            let folder = library.parent().unwrap().canonicalize().unwrap();
            self.copy(library, &folder.join(library.file_name().unwrap()));
        }
    }

    fn copy(&self, from: &Path, to: &Path) {
        let to = self.0.join(to.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }

    /// Adds a folder with its contents, under its own path.
    fn folder(&self, folder: &Path) {
        let copied =
            Command::new("cp").args(["-rL", "--parents"]).arg(folder).arg(&self.0).status();
        assert!(copied.unwrap().success(), "{}", folder.display());
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.0.join("usr/local/bin").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
}

/// Builds all of them; `images` returns the name in the file for a service.
pub(super) fn build(engine: &Engine, images: impl Fn(&str) -> String) {
    let places = SearchPath::from_env();
    let context = engine.dir().join("stand-ins");
    let make = |service: &str, more: &str, fill: &dyn Fn(&Root)| {
        let root = Root(context.join(service).join("root"));
        fs::create_dir_all(root.0.join("usr/local/bin")).unwrap();
        fill(&root);
        let path = "/usr/local/bin:/usr/bin:/bin";
        let dockerfile = format!(
            "FROM muster-base:test\nRUN groupadd --gid 10001 muster && useradd --uid 10001 --gid 10001 \
             --no-create-home muster\nCOPY root/ /\nENV PATH={path}{more}"
        );
        let context = context.join(service);
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let image = images(service);
        let folder = context.to_str().unwrap();
        engine.succeeds(&["build", "--quiet", "--network", "none", "--tag", &image, folder]);
        // The image layers contain it now.
        fs::remove_dir_all(context).unwrap();
    };
    let wget = Path::new("/usr/bin/wget");
    make("nats", "", &|root| {
        root.program(&places.nats_server().unwrap(), "nats-server");
        root.here(wget);
    });
    let bin = places.postgres_bin(None).unwrap().canonicalize().unwrap();
    let more = format!(":{}\nENTRYPOINT [\"entrypoint\"]\n", bin.display());
    make("postgres", &more, &|root| {
        for program in ["postgres", "initdb", "pg_ctl", "pg_isready", "createdb"] {
            root.here(&bin.join(program));
        }
        let version = bin.parent().unwrap();
        root.folder(&version.join("lib"));
        root.folder(&Path::new("/usr/share/postgresql").join(version.file_name().unwrap()));
        root.folder(Path::new("/usr/share/zoneinfo"));
        root.script("entrypoint", POSTGRES);
    });
    make("influxdb", "", &|root| {
        root.program(&places.influxd().unwrap(), "influxd-1");
        root.here(wget);
        root.script("influxd", INFLUXD);
        root.script("influx", INFLUX);
    });
    make("grafana", "\nCMD [\"grafana\"]\n", &|root| {
        root.here(wget);
        root.script("grafana", GRAFANA);
    });
}
