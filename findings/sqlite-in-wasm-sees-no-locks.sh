#!/usr/bin/env bash
# SQLite compiled to WebAssembly and SQLite itself both hold `begin exclusive` on one database file at the same time.
#
# Processes may share a SQLite database because every SQLite takes the same locks: byte ranges of the file itself. It
# is the same library and the same file format, so one expects the same of node-sqlite3-wasm, a build of SQLite for Node
# whose point is direct access to files (it is taken where a native module cannot be built): a Node program beside the
# sqlite3 shell, or beside a daemon in another language, waits or gets "database is locked", as two Node programs do.
# Node has no call for locking a part of a file. The WebAssembly build makes a directory NAME.lock instead, which no
# other SQLite looks at, and it looks at nobody's byte ranges. (SQLite's own unix-dotfile VFS is compatible only with
# itself for the same reason, but there one asks for it by name; here it is the only one.)
#
# For leases: a compare-and-set inside an exclusive transaction succeeds on both sides, and the later commit writes its
# pages over the earlier one's. Both hold the lease, one of them by a row that is no longer there. No call fails.
# Seen (node-sqlite3-wasm 0.8.60 with SQLite 3.53.4, Debian's sqlite3 3.40.1): while the first is in its exclusive
# transaction, another process of its kind gets "database is locked"; sqlite3's exclusive transaction takes the lease
# (1 row); then the first takes it too (1 row) and commits; integrity_check says ok.
# Source: tndrle/node-sqlite3-wasm pull request 17 (locks by a directory) and issue 56 (its only kind of lock); the README
# does not speak of locks. Found by running it beside sqlite3.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

command -v npm >/dev/null || unusable "npm is needed"
(cd "$work" && npm install --silent --no-audit --no-fund node-sqlite3-wasm@0.8.60) >"$work/npm.log" 2>&1 ||
    unusable "npm could not install node-sqlite3-wasm: $(tail -1 "$work/npm.log")"
debian_packages sqlite3=3.40.1-2+deb12u2 libsqlite3-0=3.40.1-2+deb12u2 libreadline8=8.2-1.3 libtinfo6=6.4-4

cat >"$work/observe.cjs" <<'JS'
const { Database } = require('node-sqlite3-wasm')
const { spawnSync } = require('node:child_process')

const [file, sqlite3] = process.argv.slice(2)
const take = (holder) => `update lease set holder = '${holder}' where holder is null`

// This file as a second process: an exclusive transaction by the same build of SQLite.
if (sqlite3 === undefined) {
  new Database(file).exec('begin exclusive')
  process.exit(0)
}

const shell = (script) => spawnSync(sqlite3, [file, script], { encoding: 'utf8' }).stdout
const database = new Database(file)
database.exec('create table lease (holder text); insert into lease values (null); begin exclusive')
const before = database.get('select holder from lease').holder
console.log('in an exclusive transaction by WebAssembly the holder is', before)

const same = spawnSync(process.execPath, [__filename, file], { encoding: 'utf8' })
const refused = same.status !== 0 && same.stderr.includes('database is locked')
console.log('another process of its kind is refused:', refused)

const script = `begin exclusive; ${take('native')}; select changes(); commit; select holder from lease;`
const native = shell(script)
console.log('sqlite3 in an exclusive transaction, rows changed and the holder:', native.replaceAll('\n', ' '))

const { changes } = database.run(take('WebAssembly'))
database.exec('commit')
const after = shell('select holder from lease; pragma integrity_check')
console.log('the first transaction goes on, rows changed:', changes)
console.log('then sqlite3 reads, of the lease and of the file:', after.replaceAll('\n', ' '))

if (before !== null || !refused || native !== '1\nnative\n' || changes !== 1 || after !== 'WebAssembly\nok\n') {
  console.log('CHANGED: the two builds of SQLite exclude each other now')
  process.exit(1)
}
JS
mkdir "$work/state"
run 120 "${with_debian[@]}" node "$work/observe.cjs" "$work/state/leases.db" "$debian/usr/bin/sqlite3"
