-- Registers a worker as the script of apalis-redis does, but for the list of all queues, whose key is the same for every prefix.
-- KEYS: workers, worker's metadata. ARGV: as apalis-redis gives them: now, worker, for how long a name is refused, backend,
-- service.
local last_seen = redis.call('zscore', KEYS[1], ARGV[2])
if last_seen and tonumber(ARGV[1]) - tonumber(last_seen) < tonumber(ARGV[3]) then
  return redis.error_reply('ERR worker is still active within threshold')
end
redis.call('zadd', KEYS[1], ARGV[1], ARGV[2])
redis.call('hset', KEYS[2], 'backend_name', ARGV[4], 'service', ARGV[5])
return 1
