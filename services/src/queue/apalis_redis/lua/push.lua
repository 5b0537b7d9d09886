-- Puts hints that the queue does not hold straight into the list that workers fetch from, in apalis-redis' own layout, in their
-- order, while there is capacity, and wakes the workers.
-- apalis' own push goes through a set sorted by the pusher's clock, which the worker's clock opens: skewed clocks would delay
-- every hint, and 8,000 due ones would break its fetch script for ever.
-- KEYS: data, active, meta prefix, workers. ARGV: inflight prefix, capacity, wake channel, then id and traceparent of each hint.
-- Returns a letter for each hint, n for new and k for known, up to the first one that there was no capacity for.
local outstanding = redis.call('llen', KEYS[2])
for _, worker in ipairs(redis.call('zrange', KEYS[4], 0, -1)) do
  outstanding = outstanding + redis.call('scard', ARGV[1] .. ':' .. worker)
end
local answers, pushed = {}, 0
for i = 4, #ARGV, 2 do
  local id = ARGV[i]
  if redis.call('hexists', KEYS[1], id) == 1 then
    table.insert(answers, 'k')
  elseif outstanding >= tonumber(ARGV[2]) then
    break
  else
    redis.call('hset', KEYS[1], id, 'null')
    redis.call('hset', KEYS[3] .. ':' .. id, 'attempts', '0', 'max_attempts', '1', 'status', 'Pending',
      'traceparent', ARGV[i + 1])
    redis.call('rpush', KEYS[2], id)
    outstanding, pushed = outstanding + 1, pushed + 1
    table.insert(answers, 'n')
  end
end
if pushed > 0 then
  redis.call('publish', ARGV[3], pushed)
end
return table.concat(answers)
