//! A table of a projection: its columns, and the statements that create it and that read and write
//! rows by key. Rows are written in batches, with one array for each column.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Transaction;
use crate::error::{ErrorContext, StoreError};

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    name: &'static str,
    kind: &'static str,
    is_nullable: bool,
    is_in_byte_order: bool,
    default: Option<&'static str>,
}

impl Column {
    /// A column that has a value in each row.
    #[must_use]
    pub const fn new(name: &'static str, kind: &'static str) -> Self {
        Self { name, kind, is_nullable: false, is_in_byte_order: false, default: None }
    }

    /// A text by which rows are filtered or sorted: byte order is fast and the same everywhere.
    #[must_use]
    pub const fn key_text(name: &'static str) -> Self {
        Self { is_in_byte_order: true, ..Self::new(name, "text") }
    }

    /// The same column, which may be NULL.
    #[must_use]
    pub const fn or_null(self) -> Self {
        Self { is_nullable: true, ..self }
    }

    /// The same column with a default, for rows of older releases, which do not name the column.
    #[must_use]
    pub const fn or_default(self, sql: &'static str) -> Self {
        Self { default: Some(sql), ..self }
    }

    /// Type of the column's values as parameters: PostgreSQL parses `jsonb`, which is sent as text,
    /// so that numbers are stored exactly as written.
    fn parameter(&self) -> &'static str {
        if self.kind == "jsonb" { "text" } else { self.kind }
    }

    /// The column's value in the row source `n`.
    fn value(&self) -> String {
        match self.kind {
            "jsonb" => format!("n.{}::jsonb", self.name),
            _ => format!("n.{}", self.name),
        }
    }

    fn definition(&self) -> String {
        let collation = if self.is_in_byte_order { " COLLATE \"C\"" } else { "" };
        let constraint = if self.is_nullable { "" } else { " NOT NULL" };
        let default = self.default.map(|sql| format!(" DEFAULT {sql}")).unwrap_or_default();
        format!("{} {}{collation}{constraint}{default}", self.name, self.kind)
    }
}

/// Columns of a table: those of the primary key after `project`, and all others.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// Columns of the primary key after `project`.
    pub key: &'static [Column],
    /// All other columns.
    pub values: &'static [Column],
}

/// How rows are written whose keys may be in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// None is in the table.
    Insert,
    /// Those that are in the table are left as they are.
    InsertMissing,
    /// All are in the table.
    Update,
    /// Those that are in the table are replaced.
    Upsert,
}

/// A table of a projection. `project` is the first column, and the first of the primary key.
#[derive(Clone, Debug)]
pub struct Table {
    name: String,
    columns: Columns,
}

impl Table {
    /// Creates the description of a table.
    #[must_use]
    pub fn new(name: impl Into<String>, columns: Columns) -> Self {
        Self { name: name.into(), columns }
    }

    /// Returns the name of the table.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns `CREATE TABLE IF NOT EXISTS …`.
    #[must_use]
    pub fn create(&self) -> String {
        let definitions: Vec<String> = self.all().map(Column::definition).collect();
        format!(
            "CREATE TABLE IF NOT EXISTS {} (project text COLLATE \"C\" NOT NULL, {}, \
             PRIMARY KEY (project, {}))",
            self.name,
            definitions.join(", "),
            names(self.columns.key)
        )
    }

    /// Reads columns of the rows with these keys: one array for each column of the key.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    pub async fn read(
        &self,
        transaction: &Transaction<'_>,
        project: &str,
        keys: &[&(dyn ToSql + Sync)],
        columns: &str,
    ) -> Result<Vec<Row>, StoreError> {
        let parameters = [&[&project as &(dyn ToSql + Sync)], keys].concat();
        transaction
            .query(&self.read_sql(columns), &parameters)
            .await
            .while_trying("read rows of a projection")
    }

    /// Writes rows: one array for each column of the key, then for each other column.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or the statement fails.
    pub async fn write(
        &self,
        transaction: &Transaction<'_>,
        project: &str,
        how: Write,
        arrays: &[&(dyn ToSql + Sync)],
    ) -> Result<(), StoreError> {
        let parameters = [&[&project as &(dyn ToSql + Sync)], arrays].concat();
        transaction
            .execute(&self.write_sql(how), &parameters)
            .await
            .map(drop)
            .while_trying("write rows of a projection")
    }

    fn all(&self) -> impl Iterator<Item = &'static Column> {
        self.columns.key.iter().chain(self.columns.values)
    }

    fn read_sql(&self, columns: &str) -> String {
        let name = &self.name;
        // One array needs no join, for which PostgreSQL would have to guess its length.
        if let [key] = self.columns.key {
            let Column { name: key, kind, .. } = key;
            return format!(
                "SELECT {columns} FROM {name} WHERE project = $1 AND {key} = ANY($2::{kind}[])"
            );
        }
        let keys = names(self.columns.key);
        format!(
            "SELECT {columns} FROM {name} JOIN unnest({}) AS n ({keys}) USING ({keys})
             WHERE project = $1",
            arrays(self.columns.key.iter())
        )
    }

    fn write_sql(&self, how: Write) -> String {
        let (name, key) = (&self.name, names(self.columns.key));
        let all: Vec<&str> = self.all().map(|column| column.name).collect();
        let all = all.join(", ");
        let source = format!("unnest({}) AS n ({all})", arrays(self.all()));
        let sets = |value: fn(&Column) -> String| {
            let set = |column: &Column| format!("{} = {}", column.name, value(column));
            self.columns.values.iter().map(set).collect::<Vec<_>>().join(", ")
        };
        let insert = || {
            let values: Vec<String> = self.all().map(Column::value).collect();
            let values = values.join(", ");
            format!("INSERT INTO {name} (project, {all}) SELECT $1, {values} FROM {source}")
        };
        match how {
            Write::Insert => insert(),
            Write::InsertMissing => format!("{} ON CONFLICT DO NOTHING", insert()),
            Write::Upsert => format!(
                "{} ON CONFLICT (project, {key}) DO UPDATE SET {}",
                insert(),
                sets(|column| format!("excluded.{}", column.name))
            ),
            Write::Update => {
                let is_row = |column: &Column| format!("t.{0} = n.{0}", column.name);
                let is_row: Vec<String> = self.columns.key.iter().map(is_row).collect();
                format!(
                    "UPDATE {name} AS t SET {} FROM {source} WHERE t.project = $1 AND {}",
                    sets(Column::value),
                    is_row.join(" AND ")
                )
            }
        }
    }
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// Returns the parameters of a statement after the project: one array for each column.
fn arrays<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    let array =
        |(index, column): (usize, &Column)| format!("${}::{}[]", index + 2, column.parameter());
    columns.enumerate().map(array).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns = Columns {
        key: &[Column::new("operation", "uuid"), Column::new("device", "uuid")],
        values: &[
            Column::key_text("status"),
            Column::key_text("kind").or_null(),
            Column::new("failure", "text").or_null(),
            Column::new("labels", "jsonb"),
        ],
    };

    #[test]
    fn statements_name_each_column_once_and_in_the_order_of_the_arrays() {
        let table = Table::new("runs_v1", COLUMNS);
        assert_eq!(
            table.create(),
            "CREATE TABLE IF NOT EXISTS runs_v1 (project text COLLATE \"C\" NOT NULL, \
             operation uuid NOT NULL, device uuid NOT NULL, status text COLLATE \"C\" NOT NULL, \
             kind text COLLATE \"C\", failure text, labels jsonb NOT NULL, \
             PRIMARY KEY (project, operation, device))"
        );
        let source = "unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[]) \
                      AS n (operation, device, status, kind, failure, labels)";
        let insert = format!(
            "INSERT INTO runs_v1 (project, operation, device, status, kind, failure, labels) \
             SELECT $1, n.operation, n.device, n.status, n.kind, n.failure, n.labels::jsonb \
             FROM {source}"
        );
        assert_eq!(table.write_sql(Write::Insert), insert);
        let upsert = table.write_sql(Write::Upsert);
        let set = "status = excluded.status, kind = excluded.kind, failure = excluded.failure, \
                   labels = excluded.labels";
        let expected =
            format!("{insert} ON CONFLICT (project, operation, device) DO UPDATE SET {set}");
        assert_eq!(upsert, expected);
        let set = "status = n.status, kind = n.kind, failure = n.failure, labels = n.labels::jsonb";
        let is_row = "t.project = $1 AND t.operation = n.operation AND t.device = n.device";
        let update = format!("UPDATE runs_v1 AS t SET {set} FROM {source} WHERE {is_row}");
        assert_eq!(table.write_sql(Write::Update), update);
    }
}
