// node-postgres through the pooler in transaction mode.
//
// The server is named by libpq's variables (PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE).
// Run by crates/howdah/tests/it/drivers.rs; by hand: node --test suite.js

'use strict'

const { after, before, test } = require('node:test')
const assert = require('node:assert/strict')
const { pipeline } = require('node:stream/promises')
const { Readable } = require('node:stream')
const pg = require('pg')
const copy = require('pg-copy-streams')
const Cursor = require('pg-cursor')

const CLIENTS = Number(process.env.DRIVERS_CLIENTS ?? 16)
const MEGABYTE = 1 << 20
const TABLE = `node_${process.pid}`

async function withClient(options, use) {
  const client = new pg.Client({ connectionTimeoutMillis: 20000, ...options })
  await client.connect()
  try {
    return await use(client)
  } finally {
    await client.end()
  }
}

async function one(client, ...query) {
  const result = await client.query(...query)
  return Object.values(result.rows[0])[0]
}

before(() => withClient({}, (client) => client.query(`create table ${TABLE} (id int primary key, name text, data bytea)`)))
after(() => withClient({}, (client) => client.query(`drop table ${TABLE}`)))

test('simple queries, several at once', () =>
  withClient({}, async (client) => {
    assert.equal(await one(client, 'select 1'), 1)
    const results = await client.query("select 1 as a; select 'two' as b; select 3 as c where false")
    assert.deepEqual(results.map((result) => result.rows), [[{ a: 1 }], [{ b: 'two' }], []])
    assert.equal((await client.query('')).rowCount, null)
  }))

test('parameters of many types', () =>
  withClient({}, async (client) => {
    const { rows } = await client.query(
      'select $1::int a, $2::text b, $3::bool c, $4::bytea d, $5::int[] e, $6::jsonb f, $7::timestamptz g, $8::text h',
      [7, 'häß', true, Buffer.from([0, 255]), [1, 2], { x: [1] }, new Date(0), null])
    assert.deepEqual(rows, [{
      a: 7, b: 'häß', c: true, d: Buffer.from([0, 255]), e: [1, 2], f: { x: [1] }, g: new Date(0), h: null,
    }])
  }))

test('binary results', () =>
  withClient({}, async (client) => {
    const query = { text: 'select $1::int4 a, $2::text b, $3::bool c', values: [7, 'x', false], binary: true }
    assert.deepEqual((await client.query(query)).rows, [{ a: 7, b: 'x', c: false }])
  }))

test('a named statement lives across transactions', () =>
  withClient({}, async (client) => {
    for (let n = 0; n < 20; n++) {
      await client.query('begin')
      assert.equal(await one(client, { name: 'plus', text: 'select $1::int + 1', values: [n] }), n + 1)
      await client.query('commit')
      assert.equal(await one(client, { name: 'plus', text: 'select $1::int + 1', values: [n] }), n + 1)
    }
  }))

test('many clients use one name for different statements', async () => {
  await Promise.all(Array.from({ length: CLIENTS }, (_, number) =>
    withClient({}, async (client) => {
      for (let n = 0; n < 25; n++) {
        const value = await one(client, { name: 'same', text: `select $1::int + ${number}`, values: [n] })
        assert.equal(value, n + number)
      }
    })))
})

test('a pool of clients serves many at once', async () => {
  const pool = new pg.Pool({ max: CLIENTS })
  try {
    const values = await Promise.all(Array.from({ length: 300 }, (_, n) => one(pool, 'select $1::int', [n])))
    assert.deepEqual(values, Array.from({ length: 300 }, (_, n) => n))
  } finally {
    await pool.end()
  }
})

test('queries queued without waiting come back in order', () =>
  withClient({}, async (client) => {
    const queries = Array.from({ length: 50 }, (_, n) => one(client, 'select $1::int', [n]))
    assert.deepEqual(await Promise.all(queries), Array.from({ length: 50 }, (_, n) => n))
  }))

test('an error leaves the client usable', () =>
  withClient({}, async (client) => {
    await assert.rejects(client.query('select missing'), { code: '42703', severity: 'ERROR', position: '8' })
    await assert.rejects(client.query('select $1::int', ['x']), { code: '22P02' })
    const bad = { name: 'bad', text: 'select * from nowhere' }
    await assert.rejects(client.query(bad), { code: '42P01' })
    await assert.rejects(client.query(bad), { code: '42P01' })
    assert.equal(await one(client, 'select 1'), 1)
  }))

test('errors in transactions, and savepoints', () =>
  withClient({}, async (client) => {
    await client.query('begin')
    await client.query(`insert into ${TABLE} values (1, 'outer')`)
    await client.query('savepoint s')
    await assert.rejects(client.query(`insert into ${TABLE} values (1, 'again')`), { code: '23505', table: TABLE })
    await assert.rejects(client.query('select 1'), { code: '25P02' })
    await client.query('rollback to s')
    assert.equal(await one(client, `select name from ${TABLE}`), 'outer')
    await client.query('rollback')
    assert.equal(await one(client, `select count(*)::int from ${TABLE}`), 0)
  }))

test('notices arrive with their query', () =>
  withClient({}, async (client) => {
    const notices = []
    client.on('notice', (notice) => notices.push([notice.severity, notice.message]))
    await client.query("do $$ begin raise notice 'one'; raise warning 'two'; end $$")
    assert.deepEqual(notices, [['NOTICE', 'one'], ['WARNING', 'two']])
  }))

test('copy in and out', () =>
  withClient({}, async (client) => {
    const lines = Array.from({ length: 20000 }, (_, n) => `${n}\tname ${n}\t\\\\x00ff\n`)
    await client.query('begin')
    const input = client.query(copy.from(`copy ${TABLE} from stdin`))
    await pipeline(Readable.from(lines), input)
    assert.equal(input.rowCount, lines.length)
    const chunks = []
    const output = client.query(copy.to(`copy (select * from ${TABLE} order by id) to stdout`))
    for await (const chunk of output) chunks.push(chunk)
    assert.equal(Buffer.concat(chunks).toString(), lines.join(''))
    await client.query('rollback')
  }))

test('a copy that fails leaves the client usable', () =>
  withClient({}, async (client) => {
    const input = client.query(copy.from(`copy ${TABLE} from stdin`))
    await assert.rejects(pipeline(Readable.from(['1\n']), input), { code: '22P04' })
    assert.equal(await one(client, 'select 1'), 1)
  }))

test('a cursor reads a portal in parts', () =>
  withClient({}, async (client) => {
    await client.query('begin')
    const cursor = client.query(new Cursor('select * from generate_series(1, $1::int) n', [1000]))
    assert.deepEqual(await cursor.read(3), [{ n: 1 }, { n: 2 }, { n: 3 }])
    assert.equal((await cursor.read(500)).length, 500)
    assert.equal((await cursor.read(5000)).length, 497)
    assert.deepEqual(await cursor.read(1), [])
    await cursor.close()
    const unfinished = client.query(new Cursor('select * from generate_series(1, 1000) n'))
    assert.equal((await unfinished.read(1)).length, 1)
    await unfinished.close()
    await client.query('commit')
    assert.equal(await one(client, 'select 1'), 1)
  }))

test('large results', () =>
  withClient({}, async (client) => {
    const { rows } = await client.query("select n, repeat('x', 100) x from generate_series(1, 50000) n")
    assert.equal(rows.length, 50000)
    assert.deepEqual(rows.at(-1), { n: 50000, x: 'x'.repeat(100) })
    assert.equal((await one(client, "select repeat('y', 20 * 1024 * 1024)")).length, 20 * MEGABYTE)
  }))

test('big parameters', () =>
  withClient({}, async (client) => {
    const [text, data] = ['ä'.repeat(MEGABYTE), Buffer.alloc(MEGABYTE, 7)]
    for (const name of [undefined, 'big', 'big']) {
      const query = { name, text: 'select $1::text a, $2::bytea b', values: [text, data] }
      assert.deepEqual((await client.query(query)).rows, [{ a: text, b: data }])
    }
    assert.equal(await one(client, `select length('${text}')`), MEGABYTE)
  }))

test('settings that the server reports follow their client', async () => {
  const zones = ['Asia/Kolkata', 'America/New_York', 'Europe/Berlin', 'Pacific/Auckland']
  const clients = await Promise.all(zones.map(async (zone) => {
    const client = new pg.Client({ application_name: `app ${zone}` })
    const reported = {}
    client.connection.on('parameterStatus', (status) => { reported[status.parameterName] = status.parameterValue })
    await client.connect()
    await client.query(`set timezone to '${zone}'`)
    assert.equal(reported.TimeZone, zone)
    assert.ok(reported.server_version && reported.client_encoding)
    return client
  }))
  try {
    for (let turn = 0; turn < 5; turn++) {
      await Promise.all(clients.map(async (client, n) => {
        assert.equal(await one(client, 'show timezone'), zones[n])
        assert.equal(await one(client, 'show application_name'), `app ${zones[n]}`)
      }))
    }
  } finally {
    await Promise.all(clients.map((client) => client.end()))
  }
})

test('cancel stops the query of its client', () =>
  withClient({}, (client) => withClient({}, async (bystander) => {
    const sleeping = new pg.Query('select pg_sleep(60)')
    const ended = new Promise((resolve) => {
      sleeping.on('error', resolve)
      sleeping.on('end', () => resolve(null))
    })
    client.query(sleeping)
    let outcome
    ended.then((error) => { outcome = error })
    for (let attempt = 0; attempt < 150 && outcome === undefined; attempt++) {
      const canceller = new pg.Client()
      canceller.connection.on('error', () => {})
      canceller.cancel(client, sleeping)
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
    assert.equal(outcome?.code, '57014')
    assert.equal(await one(client, 'select 1'), 1)
    assert.equal(await one(bystander, 'select 2'), 2)
  })))

test('clients come and go', async () => {
  for (let n = 0; n < 30; n++) {
    assert.equal(await withClient({}, (client) => one(client, 'select $1::int', [n])), n)
  }
})
