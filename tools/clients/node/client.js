// Produces and consumes with kafkajs.
//
// client.js BOOTSTRAP produce TOPIC CODEC [idempotent]   lines KEY<tab>VALUE from stdin
// client.js BOOTSTRAP consume TOPIC [TIMESTAMP]          all there is, or all since TIMESTAMP (ms)
// client.js BOOTSTRAP group GROUP TOPIC [COUNT]          as a group member; commits every record, ends after COUNT
'use strict'

const { readFileSync } = require('node:fs')
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const lz4 = require('lz4-napi')
const zstd = require('@bokuweb/zstd-wasm')

// kafkajs itself brings gzip only.
CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: (buffer) => lz4.decompressFrame(buffer),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer, 3)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
})

const TYPES = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
}

async function produce(kafka, topic, codec, idempotent) {
  const lines = readFileSync(0, 'utf8').split('\n').filter((line) => line !== '')
  const messages = lines.map((line) => {
    const [key, value] = line.split('\t')
    return { key: key || null, value, headers: { client: 'kafkajs' } }
  })
  const producer = kafka.producer({ idempotent: Boolean(idempotent) })
  await producer.connect()
  for (const { partition, baseOffset } of await producer.send({ topic, messages, acks: -1, compression: TYPES[codec] })) {
    console.log(JSON.stringify({ partition, baseOffset: Number(baseOffset) }))
  }
  await producer.disconnect()
}

function printRecord(partition, message) {
  const headers = Object.entries(message.headers ?? {}).map(([name, value]) => [name, value.toString()])
  console.log(JSON.stringify({
    partition,
    offset: Number(message.offset),
    timestamp: Number(message.timestamp),
    key: message.key?.toString() ?? null,
    value: message.value?.toString() ?? null,
    headers: Object.fromEntries(headers),
  }))
}

// kafkajs reads only as a member of a group: a group of its own, never committed, and seek() to where to begin.
async function consume(kafka, topic, timestamp) {
  const admin = kafka.admin()
  await admin.connect()
  const limits = await admin.fetchTopicOffsets(topic)
  const starts = timestamp ? await admin.fetchTopicOffsetsByTimestamp(topic, Number(timestamp)) : limits.map((p) => ({ ...p, offset: p.low }))
  await admin.disconnect()

  const unread = new Map(limits.map((p) => [p.partition, BigInt(p.high)]))
  for (const { partition, offset } of starts) {
    if (BigInt(offset) >= unread.get(partition)) unread.delete(partition)
  }
  if (unread.size === 0) return
  const consumer = kafka.consumer({ groupId: `read-${topic}-${process.pid}`, minBytes: 1 })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  const done = new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error))
    consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        if (!unread.has(partition)) return
        printRecord(partition, message)
        if (BigInt(message.offset) + 1n >= unread.get(partition)) unread.delete(partition)
        if (unread.size === 0) resolve()
      },
    })
  })
  starts.forEach(({ partition, offset }) => consumer.seek({ topic, partition, offset }))
  await done
  await consumer.disconnect()
}

async function group(kafka, groupId, topic, count) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 500, rebalanceTimeout: 10000 })
  let left = count ? Number(count) : Infinity
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    console.log(JSON.stringify({ owned: payload.memberAssignment[topic] ?? [] }))
  })
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || reject(payload.error))
    consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        if (left === 0) return
        printRecord(partition, message)
        await consumer.commitOffsets([{ topic, partition, offset: String(BigInt(message.offset) + 1n) }])
        left -= 1
        if (left === 0) resolve()
      },
    })
  })
  await consumer.disconnect()
}

async function main() {
  const [bootstrap, command, ...rest] = process.argv.slice(2)
  await zstd.init()
  const kafka = new Kafka({ brokers: [bootstrap], clientId: 'kafkajs', logLevel: logLevel.ERROR })
  await { produce, consume, group }[command](kafka, ...rest)
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
