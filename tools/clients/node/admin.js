// Administers a broker with kafkajs: admin.js BOOTSTRAP CALL ARGUMENTS, one line of JSON for a question.
'use strict'

const { Kafka, ConfigResourceTypes, AssignerProtocol, logLevel } = require('kafkajs')

const calls = {
  'create-topic': async (admin, topic, partitions) => {
    const configEntries = [{ name: 'retention.ms', value: '7654321' }]
    await admin.createTopics({ topics: [{ topic, numPartitions: Number(partitions), replicationFactor: 1, configEntries }] })
  },
  'list-topics': (admin) => admin.listTopics(),
  'describe-topic': async (admin, topic) => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
    return topics[0].partitions.map((p) => p.partitionId)
  },
  'describe-cluster': async (admin) => {
    const { clusterId, brokers } = await admin.describeCluster()
    return { cluster: clusterId, nodes: brokers.map((b) => b.nodeId) }
  },
  'describe-configs': async (admin, topic) => {
    const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic }]
    const answer = await admin.describeConfigs({ resources, includeSynonyms: false })
    return Object.fromEntries(answer.resources[0].configEntries.map((e) => [e.configName, e.configValue]))
  },
  'alter-configs': async (admin, topic, name, value) => {
    const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries: [{ name, value }] }]
    await admin.alterConfigs({ validateOnly: false, resources })
  },
  'create-partitions': async (admin, topic, total) => {
    await admin.createPartitions({ topicPartitions: [{ topic, count: Number(total) }] })
  },
  'list-offsets': async (admin, topic) => {
    const offsets = await admin.fetchTopicOffsets(topic)
    return Object.fromEntries(offsets.map((p) => [p.partition, [Number(p.low), Number(p.high)]]))
  },
  'delete-records': async (admin, topic, partition, offset) => {
    await admin.fetchTopicOffsets(topic) // deleteTopicRecords wants the topic's metadata loaded
    await admin.deleteTopicRecords({ topic, partitions: [{ partition: Number(partition), offset }] })
  },
  'list-groups': async (admin) => (await admin.listGroups()).groups.map((g) => g.groupId),
  'describe-group': async (admin, group) => {
    const { groups } = await admin.describeGroups([group])
    return groups[0].members.map((member) => {
      const { assignment } = AssignerProtocol.MemberAssignment.decode(member.memberAssignment)
      return { client: member.clientId, partitions: Object.values(assignment).flat() }
    })
  },
  'list-group-offsets': async (admin, group, topic) => {
    const [{ partitions }] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
    const committed = partitions.filter((p) => Number(p.offset) >= 0)
    return Object.fromEntries(committed.map((p) => [p.partition, Number(p.offset)]))
  },
  'alter-group-offsets': async (admin, group, topic, partition, offset) => {
    await admin.setOffsets({ groupId: group, topic, partitions: [{ partition: Number(partition), offset }] })
  },
  'delete-group': async (admin, group) => {
    await admin.deleteGroups([group])
  },
  'delete-topic': async (admin, topic) => {
    await admin.deleteTopics({ topics: [topic] })
  },
}

async function main() {
  const [bootstrap, call, ...rest] = process.argv.slice(2)
  const admin = new Kafka({ brokers: [bootstrap], logLevel: logLevel.ERROR }).admin()
  await admin.connect()
  const answer = await calls[call](admin, ...rest)
  await admin.disconnect()
  if (answer !== undefined) console.log(JSON.stringify(answer))
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
