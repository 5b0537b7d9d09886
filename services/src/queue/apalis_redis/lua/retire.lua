-- Strikes a worker off, whether it is stopped, dead or only silent, and hands back what it fetched and did not
-- acknowledge. A worker that was only silent finds itself unregistered at its next fetch and is rebuilt.
-- An id is always in exactly one place (active, one worker's inflight, done), so moving it here makes no copy.
-- An id without payload, or one that came back too often, would end every worker that fetches it: it is dropped, and
-- a relay pushes its step again while that is due.
-- In this order, so that a Redis out of memory, which may refuse any write that adds, leaves it to be done again.
-- KEYS: inflight set, workers, worker metadata, alive, data, active, meta prefix. ARGV: worker, wake channel, limit.
-- Returns how many were handed back.
local back = 0
for _, id in ipairs(redis.call('smembers', KEYS[1])) do
  local meta = KEYS[7] .. ':' .. id
  if redis.call('hexists', KEYS[5], id) == 1 and redis.call('hexists', meta, 'attempts') == 1
    and redis.call('hincrby', meta, 'handed_back', 1) <= tonumber(ARGV[3]) then
    redis.call('rpush', KEYS[6], id)
    back = back + 1
  else
    redis.call('hdel', KEYS[5], id)
    redis.call('del', meta)
  end
  redis.call('srem', KEYS[1], id)
end
redis.call('zrem', KEYS[2], ARGV[1])
redis.call('del', KEYS[3], KEYS[4])
if back > 0 then
  redis.call('publish', ARGV[2], back)
end
return back
